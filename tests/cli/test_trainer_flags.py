"""The flags of Lightning's Trainer: each means here what Lightning documents."""

import csv
from pathlib import Path

import pytest
import torch
from commands import QUICK, call, refusal
from runs import load, summary
from torch.optim.adam import adam

from latentlab.cli.script import CALLED
from latentlab.cli.training import denormals_flushed, flushes_denormals

# 25 training batches of 50, 8 validation batches of 40, and 7 test batches.
SMALL = ("data.batch_size=50", "data.eval_batch_size=40", "data.val_size=320", "trainer.log_every_n_steps=1")
TEST = 270


def run(folder: Path, *words: str) -> Path:
    """A finished run with these settings."""
    names = {word.lstrip("+").partition("=")[0] for word in words}
    quick = [word for word in (*QUICK, *SMALL) if word.partition("=")[0] not in names]
    done = call("train.py", *quick, f"hydra.run.dir={folder}", *words)
    assert done.status == 0, done.err
    return folder


def column(folder: Path, name: str) -> list[float]:
    """The values of a metric in metrics.csv."""
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def steps(folder: Path) -> int:
    return load(folder / "checkpoints" / "last.ckpt")["global_step"]


@pytest.mark.parametrize(("value", "number"), [("true", 1), ("3", 3)])
def test_a_dry_run_takes_a_few_batches_of_each_split(tmp_path, value, number):
    words = (f"trainer.fast_dev_run={value}", "scheduler=one_cycle", "logger=wandb")
    done = call("train.py", *QUICK, *SMALL, *words, f"hydra.run.dir={tmp_path}")
    assert f"dry run, {number} batch" in done.out, done.err
    found = summary(tmp_path)
    assert found["dry_run"] == number and found["test/num_examples"] == 40 * number
    assert steps(tmp_path) == number and column(tmp_path, "val/num_examples") == [40 * number]
    assert not (tmp_path / "wandb").exists()
    assert "was a dry run" in refusal(call("train.py", f"resume={tmp_path}"))


@pytest.mark.parametrize(("value", "trained", "validated"), [("2", 2, 80), ("0.1", 2, 40)])
def test_overfitting_repeats_its_batches_and_is_scored(tmp_path, value, trained, validated):
    run(tmp_path, f"trainer.overfit_batches={value}", "trainer.max_epochs=8", "optimizer.lr=0.01")
    found = summary(tmp_path)
    assert steps(tmp_path) == 8 * trained and found["test/num_examples"] == TEST
    assert set(column(tmp_path, "val/num_examples")) == {validated}
    bounds = column(tmp_path, "train/elbo")
    assert bounds[-1] > bounds[0] + 100  # the same 100 images, eight times


def test_limits_of_training_and_validation(tmp_path):
    words = ("+trainer.limit_train_batches=0.25", "+trainer.limit_val_batches=3", "trainer.max_epochs=2")
    run(tmp_path, *words, "trainer.num_sanity_val_steps=2")
    assert steps(tmp_path) == 12 and column(tmp_path, "val/num_examples") == [120, 120]
    assert summary(tmp_path)["test/num_examples"] == TEST


def test_training_without_validation_keeps_the_latest_epoch(tmp_path):
    run(tmp_path, "+trainer.limit_val_batches=0", "trainer.max_epochs=2", "+trainer.limit_train_batches=2")
    assert summary(tmp_path)["best/epoch"] == 2 and column(tmp_path, "val/elbo") == []


VALIDATED = {
    "+trainer.val_check_interval=0.5": 4,
    "+trainer.val_check_interval=32 trainer.check_val_every_n_epoch=null": 2,  # the second one at the end
    "trainer.check_val_every_n_epoch=2": 1,
}


@pytest.mark.parametrize(("words", "times"), VALIDATED.items())
def test_times_of_validation(tmp_path, words, times):
    run(tmp_path, "trainer.max_epochs=2", "+trainer.limit_train_batches=24", *words.split())
    assert column(tmp_path, "val/num_examples") == [320] * times


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch's profiler, which expects more steps
@pytest.mark.parametrize("kind", ["simple", "pytorch"])
def test_the_report_of_a_profiler_is_kept(tmp_path, kind):
    run(tmp_path, f"+trainer.profiler={kind}", "+trainer.limit_train_batches=6")
    report = (tmp_path / "profile.txt").read_text()
    assert "FIT Profiler Report" in report and "TEST Profiler Report" in report
    assert (tmp_path / "profile").exists() == (kind == "pytorch")


def test_a_profile_of_the_parts_of_a_run(tmp_path):
    run(tmp_path, "debug=profile", "+trainer.limit_train_batches=6")
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in (tmp_path / "profile.txt").read_text().splitlines()
        if line.startswith("│")
    ]
    calls = {row[0]: row[3] for row in rows}
    assert {"imports", "data", "rehearsal", "loggers", "test", "report"} <= {*calls}
    assert calls["forward"] == calls["backward"] == calls["optimiser"] == "6" and calls["checkpoints"]
    seconds = {row[0]: float(row[1]) for row in rows}
    assert seconds["forward"] + seconds["backward"] < seconds["training"] < seconds["sum"]


@pytest.fixture
def flags_of_torch():
    """Restore what `deterministic` and `detect_anomaly` set for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_anomaly_enabled(False)


HARMLESS = {
    "accumulation": (
        "trainer.accumulate_grad_batches=5 trainer.gradient_clip_val=1 +trainer.gradient_clip_algorithm=value "
        "+trainer.max_time={hours:1} +trainer.reload_dataloaders_every_n_epochs=1 +trainer.min_epochs=1",
        5,
    ),
    "checks": (
        "trainer.precision=64 +trainer.deterministic=true +trainer.detect_anomaly=true "
        "+trainer.inference_mode=false +trainer.benchmark=false trainer.gradient_clip_val=1",
        25,
    ),
    "steps": ("trainer.max_epochs=-1 +trainer.max_steps=7 scheduler=cosine", 7),
    "bfloat16": ("trainer.precision=bf16-mixed +trainer.enable_progress_bar=false", 25),
}


@pytest.mark.parametrize(("words", "number"), HARMLESS.values(), ids=HARMLESS)
def test_flags_of_a_step(tmp_path, flags_of_torch, words, number):
    done = call("train.py", *QUICK, *SMALL, f"hydra.run.dir={tmp_path}", *words.split())
    assert done.status == 0, done.err
    assert steps(tmp_path) == number and -600 < summary(tmp_path)["test/elbo"] < -100
    assert ("epoch 1" in (done.out + done.err).partition("best epoch")[0]) != ("enable_progress_bar" in words)


REFUSED = {
    "+trainer.limit_test_batches=2": ["limit_test_batches=2", "exact", "fast_dev_run"],
    "+trainer.limit_train_batches=0.01": ["limit_train_batches=0.01", "25 batches"],
    "+trainer.limit_val_batches=0.01": ["limit_val_batches=0.01", "8 batches"],
    "+trainer.overfit_batches=0.01": ["overfit_batches=0.01", "25 batches"],
    "trainer.precision=16-mixed": ["precision=16-mixed", "32-true"],
    "+trainer.profiler=fast": ["profiler=fast", "'simple'"],
    "+trainer.max_time=soon": ["soon", "DD:HH:MM:SS"],
    "+trainer.limit_train_batches=3 +trainer.val_check_interval=8": ["val_check_interval=8", "3 batches"],
    "callbacks=early_stopping +trainer.limit_val_batches=0": ["callbacks.early_stopping", "no validation"],
    "scheduler=cosine trainer.max_epochs=-1 +trainer.max_time={hours:1}": ["max_steps", "scheduler.T_max"],
}


@pytest.mark.parametrize(("words", "found"), REFUSED.items())
def test_flags_without_a_meaning_are_refused(tmp_path, words, found):
    line = refusal(call("train.py", *QUICK, *SMALL, f"hydra.run.dir={tmp_path}/run", *words.split()))
    assert [word for word in found if word not in line] == [], line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=[False, True])
def flushed(request):
    """The setting of denormal numbers before a training."""
    torch.set_flush_denormal(request.param)
    yield request.param
    torch.set_flush_denormal(False)


def test_a_command_flushes_denormal_numbers_and_restores_the_setting(flushed):
    assert flushes_denormals() == flushed
    with denormals_flushed():
        assert flushes_denormals()
    assert flushes_denormals() == flushed


def test_a_call_from_python_keeps_the_setting_of_denormal_numbers(flushed):
    token = CALLED.set(("train", []))
    try:
        with denormals_flushed():
            assert flushes_denormals() == flushed
    finally:
        CALLED.reset(token)
    assert flushes_denormals() == flushed


def adam_steps(flush):
    """The weight and the mean of Adam after 1000 steps, of which the first alone has a gradient."""
    torch.set_flush_denormal(flush)
    weight, mean, square, steps = torch.tensor([0.5]), torch.zeros(1), torch.zeros(1), torch.tensor(0.0)
    settings = {"beta1": 0.9, "beta2": 0.999, "lr": 1e-3, "eps": 1e-8, "weight_decay": 0.0}
    for gradient in (1.0, *[0.0] * 999):
        state = [mean], [square], [], [steps]
        adam([weight], [torch.tensor([gradient])], *state, amsgrad=False, maximize=False, **settings)
    found = weight.item(), mean.item()
    torch.set_flush_denormal(False)
    return found


def test_adam_has_the_same_weights_with_flushed_denormal_numbers():
    (weight, mean), (flushed_weight, flushed_mean) = adam_steps(False), adam_steps(True)
    assert weight == flushed_weight and mean > 0 == flushed_mean
