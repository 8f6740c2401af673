"""The page of results: which runs belong to which row, their errors and budgets, and the files that are written."""

import json
import re
import runpy
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from latentlab.errors import UserError
from latentlab.results.__main__ import main
from latentlab.results.page import BEGIN, END
from latentlab.results.rows import trained

ROWS = [
    {
        "table": "Course",
        "model": "Gaussian",
        "command": "experiment=course_vae",
        "metric": "test/elbo",
        "published": -88.77,
        "published_error": 0.69,
        "source": "some | groups",
        "note": "a remark",
    },
    {
        "table": "Burda",
        "model": "IWAE, K = 5",
        "command": "experiment=iwae_1layer",
        "evaluate": "nll.samples=5000",
        "metric": "test/nll",
        "published": 85.54,
        "hours_cpu": 14.0,
    },
    {"table": "Tomczak", "model": "VAE", "command": "experiment=vampprior_baseline", "metric": "test/elbo"},
]
COURSE, IWAE, STOPPING = (row["command"] for row in ROWS)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with the published rows."""
    monkeypatch.chdir(tmp_path)
    OmegaConf.save(OmegaConf.create(ROWS), tmp_path / "rows.yaml")
    return tmp_path


def write(folder, command=COURSE, value=-88.0, seed=1, epochs=10, done=None, evaluations=(), changed=None):
    """Write a finished run of a row's command, with changed settings by dotted key. Those of ... are removed."""
    folder.mkdir(parents=True)
    config = deepcopy(trained(command))
    config["seed"] = config["data"]["seed"] = seed
    for key, setting in {"data.root": str(folder), "trainer.max_epochs": epochs, **(changed or {})}.items():
        *path, last = key.split(".")
        node = config
        for name in path:
            node = node[name]
        node.pop(last, None) if setting is ... else node.update({last: setting})
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    summary = {
        "test/elbo": value,
        "test/elbo_stderr": 0.31,
        "seed": seed,
        "protocol": "threshold",
        "trainer/epochs": done or epochs,
        "time/train_seconds": 1800.0,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.csv").write_text("epoch,step,train/elbo\n0,9,-150\n1,19,-120\n")
    session = {"commits": {"latentlab": "0123456789abcdef"}, "processor": "A <b>", "threads": 1, "gpus": []}
    (folder / "environment.json").write_text(json.dumps({"sessions": [session]}))
    first, *earlier = evaluations or [{}]
    if first:
        (folder / "evaluation.json").write_text(json.dumps({**first, "earlier": earlier}))
    return folder


def evaluated(samples, nll, **settings):
    return {"test/nll": nll, "test/nll_stderr": 0.1, "settings": {"nll.samples": samples, **settings}}


def results(*runs, words=()):
    """Write the page of some runs, and return its text and the rows of the JSON by model."""
    main([*map(str, runs), "rows=rows.yaml", "out=docs/page.md", *words])
    rows = json.loads(Path("docs/page.json").read_text())
    return Path("docs/page.md").read_text(), {row["model"]: row for row in rows}


def test_a_run_of_the_protocol_is_in_its_row(place):
    page, rows = results(write(place / "a"))
    row = rows["Gaussian"]
    assert (row["ours"], row["error"], row["error_over"], row["n"]) == (-88.0, 0.31, "examples", 1)
    assert row["runs"][0]["budget"] == {
        "used": 10,
        "full": 10,
        "unit": "epochs",
        "ended": False,
        "share": 1.0,
    }
    assert row["runs"][0]["hours"] == 0.5
    assert rows["IWAE, K = 5"]["runs"] == []
    top, rest = page.split("## Not run")
    assert "| −88.00 (0.31) | 1 | −88.77 ± 0.69 | some \\| groups | 10 epochs | 0.5 |" in top
    assert "`python train.py experiment=course_vae seed=1` | `0123456789` | A &lt;b>, 1 thread |" in top
    assert "- Gaussian: a remark" in top
    assert "python train.py experiment=iwae_1layer`<br>`python evaluate.py run=RUN nll.samples=5000" in rest
    assert "| 14 |" in rest and str(place) not in page


def test_seeds_have_a_standard_deviation(place):
    for seed, value in enumerate((-88.0, -89.0, -90.0)):
        write(place / "runs" / str(seed), seed=seed, value=value)
    page, rows = results(place / "runs")
    row = rows["Gaussian"]
    assert (row["ours"], row["error"], row["error_over"], row["n"]) == (-89.0, 1.0, "seeds", 3)
    assert "| −89.00 ± 1.00 | 3 |" in page
    assert "python train.py -m experiment=course_vae seed=0,1,2" in page


def test_another_budget_is_marked_and_never_averaged(place, capsys):
    write(place / "runs" / "a", seed=1, epochs=2, value=-100.0)
    write(place / "runs" / "b", seed=2, epochs=2, value=-102.0)
    page, rows = results(place / "runs", words=["curves=docs/figures"])
    assert "| −101.00 ± 1.41 † | 2 |" in page and "| 2 of 10 epochs (20 %) † |" in page
    assert "trainer.max_epochs=2 seed=1,2" in page
    assert rows["Gaussian"]["whole_budget"] is False
    assert "](figures/results_course.png)" in page and (place / "docs/figures/results_course.png").is_file()
    write(place / "runs" / "c", seed=3, value=-88.0)
    page, rows = results(place / "runs")
    assert (rows["Gaussian"]["n"], rows["Gaussian"]["ours"]) == (1, -88.0)
    assert capsys.readouterr().err.count("more of the protocol's budget") == 2


def test_the_same_seed_counts_once(place, capsys):
    write(place / "runs" / "a")
    write(place / "runs" / "b", value=-80.0)
    assert results(place / "runs")[1]["Gaussian"]["n"] == 1
    assert "same seed" in capsys.readouterr().err


@pytest.mark.parametrize(("epochs", "ended"), [(2000, True), (120, False)])
def test_a_run_that_stopped_early_has_its_whole_budget(place, epochs, ended):
    page, rows = results(write(place / "a", STOPPING, epochs=epochs, done=120))
    assert rows["VAE"]["runs"][0]["budget"]["ended"] is rows["VAE"]["whole_budget"] is ended
    assert ("| 120 of at most 2,000 epochs |" if ended else "| 120 of 2,000 epochs (6 %) † |") in page


@pytest.mark.parametrize(
    "changed",
    [
        {"trainer.accelerator": "gpu", "trainer.devices": 2, "trainer.precision": "bf16-mixed"},
        {"callbacks.best.monitor": "val/elbo", "compile": True},
        {
            "callbacks.units": None,
            "logger": {"wandb": {"project": "x"}},
            "module.model.likelihood.initialise_bias": ...,
        },
    ],
)
def test_settings_without_an_influence_may_differ(place, changed):
    page, rows = results(write(place / "a", changed=changed))
    assert rows["Gaussian"]["n"] == 1
    devices = "trainer.accelerator=gpu trainer.precision=bf16-mixed seed=1" in page
    assert devices is ("trainer.accelerator" in changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data.batch_size": 64}, "Course, Gaussian.*data.batch_size: 64 here, 32 there"),
        ({"module.model.latent_dim": 2}, "latent_dim: 2 here"),
        ({"data.draw_seed": 3, "data.val_size": 9}, "and 1 more setting"),
        ({"callbacks.ema": {"decay": 0.9}}, "callbacks.ema.decay: 0.9 here, no value there"),
        ({"trainer.limit_train_batches": 3}, "limit_train_batches"),
    ],
)
def test_another_setting_keeps_a_run_out(place, capsys, changed, words):
    write(place / "runs" / "a", changed=changed)
    write(place / "runs" / "b")
    assert results(place / "runs")[1]["Gaussian"]["n"] == 1
    assert re.search(rf"left out .*runs/a: .*{words}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("environment.json", {"sessions": [{"commits": 3}]}),
        ("summary.json", {"test/elbo": -88.0, "trainer/epochs": float("nan")}),
        ("evaluation.json", {"test/nll": "low"}),
    ],
)
def test_a_run_with_a_damaged_file_is_left_out(place, capsys, file, content):
    command = IWAE if file == "evaluation.json" else COURSE
    (write(place / "runs" / "a", command) / file).write_text(json.dumps(content))
    write(place / "runs" / "b", seed=2)
    assert results(place / "runs")[1]["Gaussian"]["n"] == 1
    assert re.search(r"left out .*runs/a: .*damaged", capsys.readouterr().err)


def test_an_evaluation_counts_with_the_settings_of_its_row_only(place, capsys):
    found = [evaluated(100, 99.0), evaluated(5000, 97.0, checkpoint="last.ckpt"), evaluated(5000, 98.0)]
    row = results(write(place / "a", IWAE, epochs=3280, evaluations=found))[1]["IWAE, K = 5"]
    assert (row["ours"], row["error"]) == (98.0, 0.1)
    write(place / "b", IWAE, epochs=3280, evaluations=found[:2])
    results(write(place / "c"), place / "b")
    assert f"evaluate.py run={place / 'b'} nll.samples=5000" in capsys.readouterr().err


def test_the_readme_has_a_table_between_its_markers(place):
    readme = place / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        results(write(place / "runs" / str(_), seed=_), words=["readme=README.md"])
    lines = readme.read_text().splitlines()
    assert lines[:2] == ["before", BEGIN] and lines[-2:] == [END, "after"]
    assert "| Course, Gaussian | `test/elbo` | −88.00 (0.31) | −88.77 ± 0.69 | 1 |" in lines
    assert "(docs/page.md)" in readme.read_text() and "old" not in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("none", "no run here"),
        ("", "RUN"),
        ("a out=page.txt", ".md"),
        ("a rows=none.yaml", "none.yaml"),
        ("a readme=README.md", BEGIN),
        ("a readme=none.md", "none.md"),
        ("other", "no row has its protocol"),
        ("a pages=3", "no run here"),
        ("a out=mine.md", "mine.json"),
        ("a readme=page.md", "readme=page.md"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(place, arguments, words):
    write(place / "a")
    write(place / "other", changed={"data.batch_size": 64})
    (place / "README.md").write_text("no markers")
    (place / "mine.json").write_text('{"mine": 1}')
    before = sorted(place.rglob("*"))
    with pytest.raises((UserError, OSError), match=words) as error:
        main(["rows=rows.yaml", "out=page.md", *arguments.split()])
    assert "\n" not in str(error.value)
    assert sorted(place.rglob("*")) == before and (place / "README.md").read_text() == "no markers"


def test_it_is_a_command(place, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["results", "none", "out=a.md", "rows=rows.yaml"])
    monkeypatch.delitem(sys.modules, "latentlab.results.__main__")  # as in a new process
    with pytest.raises(SystemExit, match="1"):
        runpy.run_module("latentlab.results", run_name="__main__")
    assert capsys.readouterr().err.startswith("error: none: no run here")


LINES = "epoch,step,val/elbo,test/elbo\n0,39,-9,\n1,79,-9,\n2,84,-9,\n3,85,,-9\n"


@pytest.mark.parametrize(
    ("command", "epochs", "steps", "budget", "words"),
    [
        (
            STOPPING,
            2000,
            85,
            "2 of 2,000 epochs (0.1 %) †",
            "trainer.max_steps=85 seed=1",
        ),  # no early stopping
        (COURSE, 3, 85, "2 of 3 epochs (67 %) †", "trainer.max_steps=85 seed=1"),
        (COURSE, 3, 90, "3 epochs", "trainer.max_epochs=3 seed=1"),
    ],
)
def test_a_limit_of_steps_cuts_an_epoch(place, command, epochs, steps, budget, words):
    rows = [
        {
            "table": "A",
            "model": "B",
            "command": f"{command} trainer.max_epochs={epochs}",
            "metric": "test/elbo",
        }
    ]
    OmegaConf.save(OmegaConf.create(rows), place / "rows.yaml")
    run = write(place / "a", command, epochs=epochs, done=3, changed={"trainer.max_steps": steps})
    (run / "metrics.csv").write_text(LINES)
    page, _ = results(run)
    assert f"| {budget} |" in page
    assert f"{words}`" in page and page.count("trainer.max_epochs") == 1


def test_a_command_has_each_word_once(place):
    rows = [
        {
            "table": "A",
            "model": "B",
            "command": f"{COURSE} trainer.max_steps=90 seed=0",
            "metric": "test/elbo",
        }
    ]
    OmegaConf.save(OmegaConf.create(rows), place / "rows.yaml")
    (write(place / "a", changed={"trainer.max_steps": 85}) / "metrics.csv").write_text(LINES)
    page, _ = results(place / "a")
    assert (
        f"`python train.py {COURSE} trainer.max_steps=85 seed=1`" in page
        and "| 85 of 90 steps (94 %) † |" in page
    )


@pytest.mark.parametrize(
    ("done", "shown"), [(413, "413 of at most 1,000 iterations"), (1000, "1,000 iterations")]
)
def test_a_classical_inference_counts_iterations(place, done, shown):
    command = "model=em_mixture trainer.max_epochs=50"
    rows = [{"table": "A", "model": "B", "command": command, "metric": "train/elbo"}]
    OmegaConf.save(OmegaConf.create(rows), place / "rows.yaml")
    for epochs in (50, 10):
        run = write(place / str(epochs), command, epochs=epochs, changed={"data.root": ...})
        (run / "summary.json").write_text(
            json.dumps({"train/elbo": -1.0, "train/iterations": min(done, epochs * 20)})
        )
    page, _ = results(place / "50")
    assert f"| {shown} |" in page and f"{command} seed=1`" in page
    page, _ = results(place / "10")
    assert "| 200 of 1,000 iterations (20 %) † |" in page
    assert "python train.py model=em_mixture trainer.max_epochs=10 seed=1`" in page


def test_seeds_have_the_same_data(place, capsys):
    for seed, checksum in enumerate(("one", "two", "two")):
        write(place / "runs" / str(seed), seed=seed, value=-80.0 - seed, changed={"data.sha256": checksum})
    row = results(place / "runs")[1]["Gaussian"]
    assert (row["n"], row["ours"]) == (2, -81.5)
    assert re.search("left out .*runs/0: .*other data", capsys.readouterr().err)


@pytest.mark.parametrize("words", ["cpu;id>PWNED", "cpu`\n\n<img src=x>\n\x1b[2J"])
def test_a_config_puts_no_text_into_a_command(place, capsys, words):
    write(place / "runs" / "a", changed={"trainer.accelerator": words})
    write(place / "runs" / "b", seed=2)
    page, _ = results(place / "runs")
    error = capsys.readouterr().err
    assert "PWNED" not in page and "<img" not in page
    assert error.count("\n") == 1 and "\x1b" not in error and "runs/a" in error


def test_words_of_a_run_stay_in_their_cells(place):
    run = write(place / "a")
    session = {"commits": {"latentlab": "a` | <img> \x1b[2J\n# Title"}, "processor": "`b`\n|", "threads": 1}
    (run / "environment.json").write_text(json.dumps({"sessions": [session]}))
    page, _ = results(run)
    assert r"| `` a` \| <img> [2J # Title `` | \`b\` \|, 1 thread |" in page


def test_a_result_of_other_weights_does_not_count(place, capsys):
    run = write(place / "a", IWAE, epochs=3280, evaluations=[evaluated(5000, 98.0, checkpoint_sha256="old")])
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.ckpt").write_bytes(b"new")
    results(write(place / "b"), run)
    assert "has no test/nll" in capsys.readouterr().err


def test_words_without_influence_need_no_record(place):
    rows = [{**ROWS[1], "evaluate": "nll.samples=5000 figures.draw=false devices=2"}]
    OmegaConf.save(OmegaConf.create(rows), place / "rows.yaml")
    run = write(place / "a", IWAE, epochs=3280, evaluations=[evaluated(5000, 98.0)])
    assert results(run)[1]["IWAE, K = 5"]["ours"] == 98.0


def test_the_json_has_no_nan(place):
    run = write(place / "a")
    summary = json.loads((run / "summary.json").read_text())
    broken = {"test/elbo_stderr": float("nan"), "time/train_seconds": float("inf")}
    (run / "summary.json").write_text(json.dumps({**summary, **broken}))
    page, rows = results(run)
    assert rows["Gaussian"]["error"] is rows["Gaussian"]["runs"][0]["hours"] is None
    assert "(nan)" not in page and "Infinity" not in Path("docs/page.json").read_text()
