"""Damaged, foreign and mismatched files of a run: one line each."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import QUICK, call, refusal
from omegaconf import OmegaConf
from runs import summary

from latentlab.errors import UserError
from latentlab.run.config import read_config
from latentlab.run.metrics import MetricsFile, NewRows, read_curve, read_rows
from latentlab.run.results import read_results, write_results

MISTAKEN = {
    "missing": (lambda good: None, "no such file"),
    "empty": (lambda good: b"", "not a whole checkpoint (0 bytes)"),
    "cut short": (lambda good: good[: len(good) // 2], "not a whole checkpoint"),
    "text": (lambda good: b"hello", "not a whole checkpoint (5 bytes)"),
}


def scripts(run: Path, checkpoint: Path) -> list[list[str]]:
    arguments = f"ckpt_path={checkpoint}"
    return [["evaluate.py", arguments], ["train.py", *QUICK, f"hydra.run.dir={run}", arguments]]


@pytest.fixture
def copied(small, tmp_path):
    shutil.copytree(small, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(("spoil", "words"), MISTAKEN.values(), ids=MISTAKEN)
def test_a_checkpoint_that_cannot_be_read(copied, spoil, words):
    path = copied / "checkpoints" / "spoilt.ckpt"
    content = spoil((copied / "checkpoints" / "last.ckpt").read_bytes())
    if content is not None:
        path.write_bytes(content)
    for command_line in scripts(copied, path):
        line = refusal(call(*command_line))
        assert f"ckpt_path={path}" in line and words in line


def test_a_file_that_holds_no_checkpoint(copied):
    path = copied / "checkpoints" / "spoilt.ckpt"
    torch.save({"weights": torch.zeros(2)}, path)
    for command_line in scripts(copied, path):
        assert "not a whole checkpoint" in refusal(call(*command_line))


def test_a_run_is_evaluated_at_its_best_checkpoint(copied, tmp_path):
    done = call("evaluate.py", f"run={copied}", "nll.samples=2", f"output_dir={tmp_path}/run_directory")
    same = call(
        "evaluate.py", f"run={copied}/checkpoints/best.ckpt", "nll.samples=2", f"output_dir={tmp_path}/file"
    )
    assert (done.status, same.status) == (0, 0), done.err + same.err
    values = [
        json.loads((tmp_path / place / "evaluation.json").read_text()) for place in ("run_directory", "file")
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("content", [None, b"", b"hello"])
def test_the_last_checkpoint_stands_in_for_a_damaged_best_one(copied, content):
    best = copied / "checkpoints" / "best.ckpt"
    best.unlink() if content is None else best.write_bytes(content)
    done = call("evaluate.py", f"run={copied}", "nll.samples=2")
    assert done.status == 0, done.err
    [line] = [line for line in done.out.splitlines() if "best.ckpt" in line]
    assert f"taking {copied}/checkpoints/last.ckpt instead" in line
    (copied / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert str(best) in refusal(call("evaluate.py", f"run={copied}"))


def test_a_run_or_a_checkpoint(copied, tmp_path):
    both = (f"run={copied}", f"ckpt_path={copied}/checkpoints/best.ckpt")
    for words in ((), both):
        line = refusal(call("evaluate.py", *words))
        assert "run=RUN" in line and "ckpt_path=" in line
    assert f"run={tmp_path}/none" in refusal(call("evaluate.py", f"run={tmp_path}/none"))


def test_a_checkpoint_of_another_model(copied):
    config = OmegaConf.load(copied / "config.yaml")
    config.module.model.latent_dim = 3
    OmegaConf.save(config, copied / "config.yaml")
    line = refusal(call("evaluate.py", f"ckpt_path={copied}/checkpoints/last.ckpt"))
    assert "its weights do not fit" in line


OTHERWISE = [
    ("model.latent_dim=3", ["model.latent_dim=3", "use model.latent_dim="]),
    (
        "data=continuous_digits likelihood=continuous_bernoulli",
        ["data=continuous_digits", "binarised_digits"],
    ),
    ("protocol=dynamic", ["protocol._target_", "Threshold"]),
    ("data.val_size=0", ["data.val_size=0", "270"]),
    ("encoder.hidden=[8]", ["encoder.hidden=[8]", "[16]"]),
    ("objective=elbo", ["objective=elbo", "use objective=analytic_elbo"]),
    ("optimizer.lr=1e-5", ["optimizer.lr=1e-05", "0.001"]),
    ("seed=7", ["seed=7"]),
]


@pytest.mark.parametrize(("arguments", "words"), OTHERWISE)
def test_a_run_is_not_resumed_as_another_one(copied, arguments, words):
    before = (copied / "config.yaml").read_text()
    options = (f"ckpt_path={copied}/checkpoints/last.ckpt", f"hydra.run.dir={copied}", "trainer.max_epochs=2")
    line = refusal(call("train.py", *QUICK, *options, *arguments.split()))
    assert [word for word in (*words, "resumes with its own settings: use ") if word not in line] == [], line
    assert (copied / "config.yaml").read_text() == before


def test_a_run_that_is_complete_keeps_its_times(copied):
    before = summary(copied)
    (copied / "summary.json").unlink()  # as if it was killed while it was tested
    checkpoint = f"ckpt_path={copied}/checkpoints/last.ckpt"
    done = call("train.py", *QUICK, checkpoint, f"hydra.run.dir={copied}")
    assert done.status == 0, done.err
    assert summary(copied) == before and before["time/train_seconds"] > 0
    assert f"run: {copied}" in done.out  # no figures were drawn, and none are promised


FOREIGN = [
    "os.system",
    "latentlab.cli.report.json.loads",
    "latentlab.cli.report.Console",
    "latentlab.cli.report.write_json",
    "${x}",
]


@pytest.mark.parametrize("target", FOREIGN)
@pytest.mark.parametrize("part", ["module.model", "data.protocol", "callbacks.progress"])
def test_a_config_that_names_classes_from_elsewhere_builds_nothing(copied, part, target):
    config = OmegaConf.load(copied / "config.yaml")
    OmegaConf.update(config, f"{part}._target_", target)
    (copied / "config.yaml").write_text(OmegaConf.to_yaml(config))
    line = refusal(call("evaluate.py", f"ckpt_path={copied}/checkpoints/best.ckpt"))
    assert f"{part}._target_={target}" in line


@pytest.mark.parametrize("text", ["", "module: [", "seed: 0", "model: 3"])
def test_a_config_that_is_damaged(copied, text):
    (copied / "config.yaml").write_text(text)
    line = refusal(call("evaluate.py", f"ckpt_path={copied}/checkpoints/best.ckpt"))
    assert f"{copied}/config.yaml is damaged" in line


@pytest.mark.parametrize("part", ["callbacks", "model", "module", "data", "names"])
@pytest.mark.parametrize("value", [None, 3])
def test_a_config_with_a_part_that_is_not_a_mapping(copied, part, value):
    config = OmegaConf.load(copied / "config.yaml")
    config[part] = value
    OmegaConf.save(config, copied / "config.yaml")
    line = refusal(call("evaluate.py", f"ckpt_path={copied}/checkpoints/best.ckpt"))
    assert f"{copied}/config.yaml is damaged" in line


def line_of(function, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", ["module: [", "- 1\n- 2", "3", "a: ${b", "a: 1\n\tb"])
def test_a_config_that_cannot_be_read(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert line_of(read_config, path).startswith(f"{path} is damaged")
    assert line_of(read_config, path, "delete it").endswith("delete it")
    assert "is missing" in line_of(read_config, tmp_path / "none.yaml")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe"])
def test_results_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "summary.json"
    assert read_results(path) == {}
    path.write_bytes(content)
    assert line_of(read_results, path).startswith(f"{path} is damaged")
    write_results(path, {"test/elbo": -1.0})
    assert read_results(path) == {"test/elbo": -1.0}
    assert [each.name for each in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"epoch,step,val/elbo\nx,1,2\n", b"\xff\xfe\n"])
def test_metrics_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    assert str(path) in line_of(read_curve, path, "val/elbo")


def test_a_curve_is_the_mean_of_each_epoch(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    for epoch, value in ((0, 1.0), (0, 3.0), (1, 5.0)):
        file.append({"epoch": epoch, "train/elbo": value}, step=1)
    assert read_curve(file.path, "train/elbo") == {1: 2.0, 2: 5.0}
    assert "train/elbo" in line_of(read_curve, file.path, "val/elbo")  # the metric that was logged
    assert len(read_rows(file.path)) == 3


def test_a_reader_follows_a_file_through_new_columns_and_a_rewind(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    rows = NewRows(file.path)
    assert rows.read() == []
    file.append({"a": 1.0}, step=0)
    assert [row["a"] for row in rows.read()] == ["1.0"]
    file.append({"b": 2.0}, step=1)
    with file.path.open("a") as half:
        half.write(",2")
    assert [row["b"] for row in rows.read()] == ["2.0"]
    file.rewind(1)
    assert [row["step"] for row in rows.read()] == ["0"]
