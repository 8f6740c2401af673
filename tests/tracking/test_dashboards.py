"""The keys of a dashboard's panels are those that a run logs, read back from its record."""

import json
import re
import sys

import pytest
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from commands import call
from panel_keys import panel_keys
from records import dotted, gather, records, runs, summary

from latentlab import dashboards
from latentlab.dashboards.__main__ import main
from latentlab.dashboards.build import COLUMNS
from latentlab.errors import UserError

# Two epochs on few images.
RUN = (
    "data=binarised_digits",
    "data.val_size=1400",
    "encoder.hidden=[8]",
    "decoder.hidden=[8]",
    "model.latent_dim=2",
    "trainer.log_every_n_steps=1",
    "trainer.max_epochs=2",
    "+callbacks.skip._target_=latentlab.callbacks.GradientSkip",
    "figures.every_n_epochs=1",
    "~figures.manifold",
    "~figures.usage",
)


def dry(capsys, kind, *options):
    main([kind, "my-team/my-project", "--dry-run", *options])
    return json.loads(capsys.readouterr().out)


def logged(run_dirs, capsys):
    """Check that the records of one run hold every key of the panels, and return its summary."""
    rows = [set(each["history"]["item"]) for one in run_dirs for each in records(one) if "history" in each]
    ends = summary(run_dirs[-1])
    config = dict(dotted(gather(run_dirs[0], "config", "update")))
    types = {key: value for row in run_dirs for key, value in types_of(row).items()}
    named = panel_keys(dry(capsys, "workspace"))
    assert named == panel_keys(dry(capsys, "report"))
    assert set(named) == {"history", "config", "summary", "media", "tables"}
    for both in named["history"]:
        pattern, axis = both.split(" over ")
        assert any(axis in row and any(re.fullmatch(pattern, key) for key in row) for row in rows), both
    assert named["summary"] <= {key for key, value in ends.items() if isinstance(value, int | float)}
    assert named["config"] | pinned("config") <= config.keys() and pinned("summary") <= named["summary"]
    assert {types.get(f"{key}._type") for key in named["media"]} == {"images/separated"}
    assert {ends.get(f"{key}._type") for key in named["tables"]} == {"table-file"}
    return ends


def pinned(kind):
    """Return the keys of the columns in the table of runs."""
    found = [name.split(":", 1) for name in COLUMNS]
    return {re.sub(r"\.value(\.|$)", r"\1", key) for section, key in found if section == kind}


def types_of(run_dir):
    return {
        key: value
        for each in records(run_dir)
        for key, value in each.get("history", {}).get("item", {}).items()
        if key.endswith("._type")
    }


def epochs(run_dirs, key):
    """Return the epochs of the history rows of a key."""
    items = [each["history"]["item"] for one in run_dirs for each in records(one) if "history" in each]
    return [item["epoch"] for item in items if key in item]


def test_what_the_panels_name_is_logged(tmp_path, capsys):
    """A run that crashes in its second epoch is resumed and evaluated."""
    folder = tmp_path / "run"
    arguments = (*RUN, f"hydra.run.dir={folder}", "logger.wandb.log_model=best")
    arguments += ("+callbacks.crash={_target_:failing.Crash,epoch:1}",)
    with pytest.raises(RuntimeError, match="on purpose"):
        call("train.py", *arguments)
    assert call("train.py", *arguments, f"ckpt_path={folder}/checkpoints/last.ckpt").status == 0
    scored = call(
        "evaluate.py",
        f"ckpt_path={folder}/checkpoints/best.ckpt",
        "wandb=true",
        "nll.samples=2",
        "trust=[failing]",
    )
    assert scored.status == 0, scored.err
    crashed, resumed, evaluated = runs(folder)
    ends = logged([crashed, resumed, evaluated], capsys)
    assert "test/nll" not in summary(resumed)
    assert ends["test/nll"] == json.loads((folder / "evaluation.json").read_text())["test/nll"]
    assert ends["best/val_elbo"] == json.loads((folder / "summary.json").read_text())["val/elbo"]
    # Figures after each epoch and of the best. Final numbers are not rows, which a curve would show.
    assert epochs([crashed, resumed], "figures/samples._type") == [0, 1, 2]
    assert epochs([crashed, resumed], "val/elbo") == [0, 1]
    one, two, three = (gather(each, "run") for each in (crashed, resumed, evaluated))
    assert one["display_name"] == "vae binarised_digits_val_size-1400 seed0"
    assert one["run_id"] == two["run_id"] == three["run_id"] and two["resume"] is True
    assert gather(crashed, "exit")["exit_code"] == 1 and gather(resumed, "exit").get("exit_code", 0) == 0
    artifacts = [each["artifact"] for each in records(resumed) if "artifact" in each]
    (model,) = (each for each in artifacts if each["type"] == "model")
    files = {file["path"] for file in model["manifest"]["contents"]}
    assert files == {"config.yaml", "checkpoints/best.ckpt"}
    assert sorted(model["aliases"]) == ["best", "latest"]


def test_a_workspace_can_be_read_as_one(capsys):
    view = ws.Workspace._from_model(ws.internal.View.model_validate(dry(capsys, "workspace", "name=Bounds")))
    assert (view.entity, view.project, view.name) == ("my-team", "my-project", "Bounds")
    assert {section.panel_settings.smoothing_type for section in view.sections} == {"none"}
    assert set(map(type, view.sections[0].panels)) == {wr.LinePlot, wr.BarPlot, wr.ScatterPlot}


def test_a_report_explains_every_group_of_panels(capsys):
    page = wr.Report._from_model(
        wr.internal.ReportViewspec.model_validate(dry(capsys, "report", "name=Ours"))
    )
    assert page.title == "Ours"
    kinds = [type(block) for block in page.blocks if not isinstance(block, wr.TableOfContents)]
    assert len(kinds) >= 15 and kinds == [wr.H2, wr.P, wr.PanelGrid] * (len(kinds) // 3)
    grids = [block for block in page.blocks if isinstance(block, wr.PanelGrid)]
    boxes = [[(p.layout.x, p.layout.y) for p in grid.panels] for grid in grids]
    assert all(len(set(box)) == len(box) for box in boxes)


@pytest.mark.parametrize("kind", ["workspace", "report"])
def test_filters(capsys, kind):
    text = json.dumps(dry(capsys, kind, "data=binarised_digits", "group=mine"))
    assert (
        '{"section": "config", "name": "names.value.data"}, "op": "IN", "value": ["binarised_digits"]' in text
    )
    assert '{"section": "run", "name": "group"}, "op": "IN", "value": ["mine"]' in text


def test_a_file(tmp_path, capsys):
    for option in ([f"out={tmp_path}/report.json"], ["--out", f"{tmp_path}/report.json"]):
        (tmp_path / "report.json").unlink(missing_ok=True)
        main(["report", "a/b", "--dry-run", *option])
    assert json.loads((tmp_path / "report.json").read_text())["project"] == {"name": "b", "entityName": "a"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "the following arguments are required: kind, ENTITY/PROJECT"),
        (["workspace"], "the following arguments are required: ENTITY/PROJECT"),
        (["dashboard", "a/b"], "argument kind: invalid choice: 'dashboard'"),
        (["report", "a/b", "nmae=x", "--dry-run"], "unrecognized arguments: --nmae=x"),
        (["report", "a/b", "out=x.json"], "--out needs --dry-run"),
        (["report", "b", "--dry-run"], "b: not of the form ENTITY/PROJECT"),
        (["report", "a/b/c", "--dry-run"], "a/b/c: not of the form ENTITY/PROJECT"),
        (["report", "/b", "--dry-run"], "/b: not of the form ENTITY/PROJECT"),
        (["report", "a/b"], "no W&B API key found: run `wandb login` or set WANDB_API_KEY"),
    ],
)
def test_mistakes_are_one_line(arguments, line):
    with pytest.raises(UserError) as caught:
        main(arguments)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "owner"), [("workspace", ws.Workspace), ("report", wr.Report)])
def test_saving_prints_the_address_or_why_not(capsys, monkeypatch, kind, owner):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(owner, "url", "https://wandb.ai/a/b/x")
    monkeypatch.setattr(owner, "save", lambda self: self)
    main([kind, "a/b"])
    assert capsys.readouterr().out == "https://wandb.ai/a/b/x\n"

    def refuse(self):
        raise ValueError("permission denied\nand more")

    monkeypatch.setattr(owner, "save", refuse)
    with pytest.raises(UserError, match=rf"^the {kind} of a/b was not saved: permission denied$"):
        main([kind, "a/b"])


def test_the_library_may_be_missing(monkeypatch):
    monkeypatch.delattr(dashboards, "build", raising=False)
    for name in ("build", "sections"):
        monkeypatch.delitem(sys.modules, f"latentlab.dashboards.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(
        UserError, match=r"^wandb-workspaces is not installed: pip install 'latentlab\[dashboards\]'$"
    ):
        main(["workspace", "a/b", "--dry-run"])
