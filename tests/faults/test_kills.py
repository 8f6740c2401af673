"""Runs that are killed at a chosen place and resumed equal the uninterrupted run, bit for bit."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from equality import COLUMNS, differences
from forks import Ended, forked

STATUS = {"SIGKILL": -9, "SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}
OFTEN = "callbacks.last.every_minutes=1e-3"  # 60 ms
SMALL = (
    *("data=binarised_digits", "data.batch_size=64", "data.eval_batch_size=50"),
    *("trainer.log_every_n_steps=7", "trainer.max_epochs=3", OFTEN),
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
        equal = "  ".join(f"{column} {self.equal[column]}" for column in COLUMNS)
        return f"{self.kind}: {self.kills} kills; equal to the uninterrupted run: {equal}"


def train(home: Path, name: str, *arguments: str, timeout: float = 120) -> Ended:
    env = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    return forked("train.py", *arguments, f"hydra.run.dir={home}/{name}", home=home, env=env, timeout=timeout)


def killed_and_resumed(
    home: Path, arguments: tuple[str, ...], kill: str, to: int = 0
) -> dict[str, list[str]]:
    """Train with a kill such as "SIGTERM batch 5", resume, and return what differs from the run `uncut`."""
    number, event, n = kill.split()
    name = kill.replace(" ", "-")
    where = f"number: {number}, event: {event}, n: {n}, to: {to}"
    callback = f"+callbacks.kill={{_target_: tests.faults.killing.Kill, {where}}}"
    ended = train(home, name, *arguments, callback)
    expected = STATUS[number] if to == 0 or number != "SIGKILL" else 1
    assert ended.status == expected, (kill, ended)
    last = home / name / "checkpoints" / "last.ckpt"
    resumed = train(home, name, *arguments, *([f"ckpt_path={last}"] if last.exists() else []))
    assert resumed.status == 0, (kill, resumed)
    return differences(home / "uncut", home / name)


def tally(home: Path, kind: str, arguments: tuple[str, ...], kills: str, to: int = 0) -> Tally:
    """Kill and resume a run at several places, separated by commas. Print the tally."""
    uncut = train(home, "uncut", *arguments)
    assert uncut.status == 0, uncut
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
def test_kills_while_figures_are_drawn(tmp_path):
    figures = "+figures.samples={_target_: latentlab.figures.samples, _partial_: true}"
    arguments = (*SMALL, MLP, "figures=none", figures, "figures.every_n_epochs=1")
    tally(
        tmp_path,
        "figures",
        (*arguments, "logger=none"),
        "SIGKILL figure 2, SIGTERM figure 1, SIGINT figure 3, SIGHUP figure 4",
    )
