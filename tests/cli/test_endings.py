"""Runs that resume, and runs that end early."""

import csv
import shlex
import signal
import sys
import time
from pathlib import Path

import forks
import pytest
import torch
from commands import QUICK, call, refusal, start
from forks import forked
from runs import load, same_weights, summary, train, weights

from latentlab.errors import Diverged


def test_a_resumed_run_is_the_run_that_was_not_cut_off(tmp_path):
    whole = train(tmp_path / "whole", "trainer.max_epochs=3")
    parts = train(tmp_path / "parts", "trainer.max_epochs=2")
    last = f"ckpt_path={parts}/checkpoints/last.ckpt"
    done = forked("train.py", *QUICK, last, f"hydra.run.dir={parts}", "trainer.max_epochs=3", home=tmp_path)
    assert done.status == 0, done.err
    assert same_weights(whole, parts)
    for name in ("test/elbo", "val/elbo", "best/epoch"):
        assert summary(parts)[name] == summary(whole)[name]
    with (parts / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file) if row["val/elbo"] and row["epoch"]] == list(
            "012"
        )


DIVERGES = (
    "scheduler._target_=torch.optim.lr_scheduler.ExponentialLR",
    "~scheduler.factor",
    "~scheduler.total_iters",
    "+scheduler.gamma=1e30",
    "trainer.max_epochs=3",
)


def test_divergence_is_one_line_and_keeps_the_last_good_epoch(tmp_path, monkeypatch):
    codes = []
    monkeypatch.setattr("latentlab.cli.training.finish", lambda loggers, exit_code: codes.append(exit_code))
    run = tmp_path / "run"
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={run}", *DIVERGES), Diverged.status)
    assert "training diverged" in line and "epoch 2" in line and "optimizer.lr" in line
    assert codes == [1]
    for name in ("best", "last"):
        assert load(run / "checkpoints" / f"{name}.ckpt")["epoch"] == 0
        assert all(tensor.isfinite().all() for tensor in weights(run, name).values())
    assert not (run / "summary.json").exists()


def test_divergence_is_the_same_line_with_arguments_checked(tmp_path):
    options = ("optimizer=sgd", "optimizer.lr=1e4", "validate_args=true", f"hydra.run.dir={tmp_path}/run")
    line = refusal(call("train.py", *QUICK, *options), Diverged.status)
    assert "training diverged: parameter " in line and " of a distribution is invalid at epoch 1" in line
    assert "optimizer.lr" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line(tmp_path):
    line = refusal(call("train.py", *QUICK, "trainer=gpu", f"hydra.run.dir={tmp_path}/run"))
    assert "no GPU" in line and "trainer=cpu" in line


def test_nothing_to_score_is_one_line(tmp_path):
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={tmp_path}/run", "trainer.max_epochs=0"))
    assert "trainer.max_epochs=0" in line and not (tmp_path / "run").exists()


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists() and path.stat().st_size > 0:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


@pytest.mark.parametrize("after", ["metrics.csv", "checkpoints/last.ckpt"])
def test_sigterm_ends_with_143_and_a_checkpoint_to_resume_from(tmp_path, after):
    """In the first epoch, and later."""
    long = (
        ("data.batch_size=5", "trainer.max_epochs=100")
        if after == "metrics.csv"
        else ("trainer.max_epochs=5000",)
    )
    running = forks.start("train.py", *QUICK, *long, "hydra.run.dir=run", home=tmp_path)
    wait_for(tmp_path / "run" / after)
    running.signal(signal.SIGTERM)
    done = running.finish()
    assert done.status == 143, done.err
    assert done.err == f"resume: python train.py resume={tmp_path}/run\n"
    last = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
    epochs = last["epoch"] + (1 if after == "metrics.csv" else 2)
    resumed = train(
        tmp_path / "run",
        *long[:1],
        f"trainer.max_epochs={epochs}",
        f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt",
    )
    assert load(resumed / "checkpoints" / "last.ckpt")["epoch"] == epochs - 1


def test_a_reader_that_closes_the_output_early_does_not_end_the_run(tmp_path):
    process = start("train.py", *QUICK, "trainer.max_epochs=2", "hydra.run.dir=run", home=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    assert any(line.startswith("epoch 1/2") for line in process.stdout)
    process.stdout.close()
    assert (process.wait(120), process.stderr.read()) == (0, "")
    process.stderr.close()
    assert "epoch 2/2" in (tmp_path / "run" / "train.log").read_text() and summary(tmp_path / "run")


def test_a_crash_prints_its_traceback_and_then_how_to_resume(tmp_path, monkeypatch):
    def crash(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("latentlab.cli.report.conclude", crash)
    with pytest.raises(ZeroDivisionError) as crashed:
        call("train.py", *QUICK, f"hydra.run.dir={tmp_path}/run 1")
    assert crashed.value.__notes__ == [f"resume: python train.py 'resume=\"{tmp_path}/run 1\"'"]
    # Python prints the notes of an exception after its traceback.
    monkeypatch.undo()
    assert call("train.py", f"resume={tmp_path}/run 1").status == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("callbacks=mine", "python train.py --config-dir={home} resume={home}/run"),
        (
            "+callbacks.own._target_=of_a_user.Quiet",
            "LATENTLAB_TRUST=of_a_user python train.py resume={home}/run",
        ),
        ("encoder.activation._target_=torch.nn.Hardsigmoid", "python train.py resume={home}/run"),
        ("+callbacks.own._target_=pytorch_lightning.Callback", "ckpt_path={home}/run/checkpoints/last.ckpt"),
    ],
)
def test_the_printed_command_resumes_a_run_with_other_classes(tmp_path, monkeypatch, words, expected):
    """With classes of the user, listed ones of a library, and others of it."""
    source = "from pytorch_lightning import Callback\n\n\nclass Quiet(Callback): ...\n"
    (tmp_path / "of_a_user.py").write_text(source)
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "mine.yaml").write_text("defaults: [none]\nown:\n  _target_: of_a_user.Quiet\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = [f"--config-dir={tmp_path}"] if words == "callbacks=mine" else []

    def crash(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError) as crashed:
        patch.setattr("latentlab.cli.report.conclude", crash)
        call("train.py", *own, *QUICK, words, f"hydra.run.dir={tmp_path}/run")
    [note] = crashed.value.__notes__
    assert expected.format(home=tmp_path) in note
    variables, _, resumed = note.removeprefix("resume: ").partition("python train.py ")
    for name, _, value in (each.partition("=") for each in variables.split()):
        monkeypatch.setenv(name, value)
    done = call("train.py", *shlex.split(resumed))
    assert done.status == 0, done.err
    sys.modules.pop("of_a_user", None)
