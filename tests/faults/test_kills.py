"""Runs that are killed at a chosen place and resumed equal the uninterrupted run, bit for bit."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from equality import COLUMNS, differences
from forks import Ended, forked

STATUS = {"SIGKILL": -9, "SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}
OFTEN = ("callbacks.last.every_minutes=1e-3", "callbacks.last.min_seconds=0")  # 60 ms, and after each epoch
SMALL = (
    *("data=binarised_digits", "data.batch_size=64", "data.eval_batch_size=50"),
    *("trainer.log_every_n_steps=7", "trainer.max_epochs=3", *OFTEN),
)
MLP = "encoder.hidden=[16]"


@dataclass
class Tally:
    """The kills of one kind of run, and the number of resumed runs that equal the uninterrupted one, by column."""

    kind: str
    kills: int = 0
    equal: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)

    def count(self, kill: str, compared: dict[str, list[str]]) -> None:
        self.kills += 1
        self.equal.update(column for column, places in compared.items() if not places)
        self.found += [f"{kill}: {column}: {places[:3]}" for column, places in compared.items() if places]

    def __str__(self) -> str:
        equal = "  ".join(f"{column} {self.equal.get(column, '-')}" for column in COLUMNS)
        return f"{self.kind}: {self.kills} kills; equal to the uninterrupted run: {equal}"


def run(home: Path, *words: str) -> Ended:
    env = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "LATENTLAB_TRUST": "tests.faults.killing"}
    return forked("train.py", *words, home=home, env=env, timeout=180)


def train(home: Path, name: str, *arguments: str) -> Ended:
    return run(home, *arguments, f"hydra.run.dir={home}/{name}")


def killed_and_resumed(
    home: Path, arguments: tuple[str, ...], kill: str, to: int = 0
) -> dict[str, list[str]]:
    """Train with a kill such as "SIGTERM batch 5", resume, and return what differs from the run `uncut`."""
    number, event, n = kill.split()
    name = kill.replace(" ", "-")
    where = f"number: {number}, event: {event}, n: {n}, to: {to}, once: {home}/{name}.once"
    callback = f"+callbacks.kill={{_target_: tests.faults.killing.Kill, {where}}}"
    ended = train(home, name, *arguments, callback)
    assert ended.status == STATUS[number], (kill, ended)
    saved = (home / name / "checkpoints" / "last.ckpt").exists()
    resumed = run(home, f"resume={home / name}") if saved else train(home, name, *arguments)
    assert resumed.status == 0, (kill, resumed)
    return differences(home / "uncut", home / name)


def tally(home: Path, kind: str, arguments: tuple[str, ...], kills: str, to: int = 0) -> Tally:
    """Kill and resume a run at several places, separated by commas. Print the tally."""
    if not (home / "uncut").exists():
        assert train(home, "uncut", *arguments).status == 0
    counted = Tally(kind)
    for kill in kills.split(", "):
        counted.count(kill, killed_and_resumed(home, arguments, kill, to))
    print(counted)
    assert not counted.found, "\n".join(counted.found)
    return counted


def test_a_killed_run_resumes_exactly(tmp_path):
    """The short form: a signal within a validation, and a kill in a write of a checkpoint within an epoch."""
    arguments = (*SMALL, MLP, "callbacks=none", "logger=none")
    tally(tmp_path, "vae", arguments, "SIGINT validation 2, SIGKILL write 3")


@pytest.mark.faults
def test_kills_of_a_vae(tmp_path):
    tally(
        tmp_path,
        "vae",
        (*SMALL, MLP, "callbacks=none"),
        "SIGKILL batch 5, SIGTERM batch 5, SIGINT batch 6, SIGHUP batch 7, SIGKILL batch 33, SIGTERM batch 39, "
        "SIGTERM batch 40, SIGTERM batch 41, SIGKILL batch 60, SIGTERM batch 60, SIGKILL write 1, SIGKILL write 3, "
        "SIGTERM write 4, SIGKILL written 3, SIGKILL written 5, SIGKILL validation 1, SIGTERM validation 1, "
        "SIGINT validation 10, SIGHUP validation 6, SIGKILL test 1, SIGTERM test 1, SIGTERM fitted 1",
    )


@pytest.mark.faults
def test_kills_between_two_checkpoints(tmp_path):
    """The states of the last epochs wait in memory, and a kill loses them."""
    arguments = (
        *SMALL,
        MLP,
        "callbacks=none",
        "callbacks.last.min_seconds=1e3",
        "callbacks.last.every_minutes=null",
    )
    tally(
        tmp_path,
        "vae, checkpoints seldom",
        arguments,
        "SIGKILL batch 25, SIGKILL batch 41, SIGKILL batch 60, SIGKILL write 1, SIGKILL written 1, SIGKILL write 2, "
        "SIGKILL write 3, SIGKILL written 3, SIGKILL test 1, SIGTERM batch 45",
    )


@pytest.mark.faults
def test_kills_while_figures_are_drawn(tmp_path):
    figures = "+figures.samples={_target_: latentlab.figures.samples, _partial_: true}"
    arguments = (*SMALL, MLP, "figures=none", figures, "figures.every_n_epochs=1")
    tally(
        tmp_path,
        "figures",
        (*arguments, "logger=none"),
        "SIGKILL figure 2, SIGTERM figure 1, SIGINT figure 3, SIGHUP figure 4",
    )


@pytest.mark.faults
def test_kills_of_a_vdm_with_ema(tmp_path):
    vdm = ("model=vdm", "denoiser=mlp", "callbacks=ema", "figures=none", "trainer.accumulate_grad_batches=3")
    tally(
        tmp_path,
        "vdm, EMA, 3 batches accumulated",
        (*SMALL, *vdm),
        "SIGTERM batch 2, SIGKILL batch 14, SIGHUP batch 25, SIGKILL write 3, SIGTERM validation 1, "
        "SIGINT validation 9, SIGTERM batch 60, SIGTERM test 1",
    )


@pytest.mark.faults
def test_kills_of_other_callbacks(tmp_path):
    """Early stopping, skipped steps, the gradient's variance, a warm-up and a scheduler."""
    skip = "{_target_: latentlab.callbacks.GradientSkip, max_norm: 250, patience: 90, window: 95}"
    variance = "{_target_: latentlab.callbacks.GradientVariance, every_n_epochs: 1, repeats: 2}"
    stops = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1")
    arguments = (
        *(*SMALL, MLP, *stops, "callbacks.early_stopping.min_delta=100", f"+callbacks.skip={skip}"),
        *(f"+callbacks.variance={variance}", "figures=none", "objective=beta_elbo", "scheduler=cosine"),
    )
    tally(
        tmp_path,
        "callbacks",
        arguments,
        "SIGTERM batch 5, SIGKILL batch 33, SIGKILL written 4, SIGTERM validation 1, SIGTERM test 1",
    )


@pytest.mark.faults
def test_kills_of_classical_inference(tmp_path):
    arguments = ("model=bbvi_normal_gamma", "figures=none", "trainer.max_epochs=2", *OFTEN)
    tally(
        tmp_path,
        "bbvi",
        arguments,
        "SIGTERM batch 5, SIGKILL batch 90, SIGKILL batch 150, SIGTERM batch 200, SIGKILL test 1",
    )


@pytest.mark.faults
def test_kills_of_two_ranks(tmp_path):
    """Signals to the process that started the ranks, and to the first rank."""
    arguments = (*SMALL, MLP, "callbacks=none", "trainer=ddp_cpu", "trainer.devices=2", "logger=none")
    tally(
        tmp_path,
        "2 ranks, parent",
        arguments,
        "SIGTERM batch 25, SIGINT validation 1, SIGKILL batch 33",
        to=1,
    )
    tally(tmp_path, "2 ranks, first rank", arguments, "SIGHUP batch 13")


@pytest.mark.faults
def test_kills_of_a_trial(tmp_path):
    """The process of a search is killed within a trial, and the same command finishes the search."""
    arguments = ("-m", *SMALL, MLP, "figures=none", "sweep=optuna", "hydra.sweeper.n_trials=1", "logger=none")
    counted = Tally("trials of a search")
    assert search(tmp_path, "uncut", arguments).status == 0
    for number in ("SIGKILL", "SIGTERM"):
        kill = f"number: {number}, event: batch, n: 8, to: 2, once: {tmp_path}/{number}.once"
        callback = f"+callbacks.kill={{_target_: tests.faults.killing.Kill, {kill}}}"
        assert search(tmp_path, number, (*arguments, callback)).status in (-9, 143)
        assert search(tmp_path, number, (*arguments, callback)).status == 0
        for trial in trials(tmp_path / "uncut"):
            counted.count(
                number, differences(trial, tmp_path / number / trial.relative_to(tmp_path / "uncut"))
            )
    print(counted)
    assert not counted.found, "\n".join(counted.found)


def search(home: Path, name: str, arguments: tuple[str, ...]) -> Ended:
    return forked("train.py", *arguments, f"hydra.sweep.dir={home}/{name}", home=home, timeout=300)


def trials(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("summary.json"))
