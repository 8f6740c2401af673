"""Two commands at once in one run directory: one of them runs, and the other is refused in one line."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Ended, Running, forked, start
from runs import summary
from wholeness import OFFLINE, TINY, check_whole, curve, wandb_runs

from latentlab.run.config import read_config
from latentlab.run.directory import RunDirectory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness reads /proc")
EPOCHS = ("trainer.max_epochs=2", "hydra.run.dir=run")


def begin(home: Path, *words: str) -> Running:
    return start("train.py", *words, home=home, env=OFFLINE)


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def loser_line(ended: list[Ended]) -> str:
    """Return the one line of the command that was refused. The other one succeeded."""
    [winner] = [each for each in ended if each.status == 0]
    [loser] = [each for each in ended if each is not winner]
    assert loser.status == 1 and not loser.out, loser
    [line] = loser.err.splitlines()
    assert line.startswith("error: ") and "run" in line
    assert not winner.err, winner
    return line


def race(home: Path, first: tuple[str, ...], second: tuple[str, ...]) -> str:
    running = [begin(home, *words) for words in (first, second)]
    return loser_line([each.finish() for each in running])


def check_one_writer(run: Path, alone: Path) -> None:
    """The files of a race are whole, and equal to those of a run that was alone."""
    assert {"summary.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= set(check_whole(run))
    assert curve(run) == curve(alone)
    assert len(wandb_runs(run)) == len(wandb_runs(alone))


def test_one_of_two_commands_wins(tmp_path):
    commands = [(*TINY, "logger=none", "trainer.max_epochs=1", f"seed={seed}") for seed in (1, 2)]
    line = race(tmp_path, *((*words, "hydra.run.dir=run") for words in commands))
    check_whole(tmp_path / "run")
    seeds = [
        read(tmp_path / "run")["seed"] for read in (lambda run: read_config(run / "config.yaml"), summary)
    ]
    assert seeds[0] == seeds[1] and not (tmp_path / "run" / ".lock").exists()
    assert "another process (" in line or "already holds a run" in line


def twice(home: Path) -> str:
    return race(home, (*TINY, *EPOCHS, "seed=1"), (*TINY, *EPOCHS, "seed=1"))


def seeds(home: Path) -> str:
    return race(home, (*TINY, *EPOCHS, "seed=2"), (*TINY, *EPOCHS, "seed=1"))


def interrupt(home: Path) -> None:
    running = begin(home, *TINY, *EPOCHS, "seed=1")
    wait_for(RunDirectory(home / "run").last_checkpoint)
    running.signal(signal.SIGKILL)
    running.finish()


def train_and_resume(home: Path) -> str:
    interrupt(home)
    return race(home, (*TINY, *EPOCHS, "seed=1"), ("resume=run",))


def two_resumes(home: Path) -> str:
    interrupt(home)
    return race(home, ("resume=run",), ("resume=run",))


def killed_winner(home: Path) -> str:
    """The second command is refused while the first one lives, and takes over after its kill."""
    running = begin(home, *TINY, *EPOCHS, "seed=1")
    wait_for(home / "run" / "config.yaml")
    refused = forked("train.py", *TINY, *EPOCHS, "seed=1", home=home, env=OFFLINE)
    running.signal(signal.SIGKILL)
    running.finish()
    last = RunDirectory(home / "run").last_checkpoint
    words = ("resume=run",) if last.exists() else (*TINY, *EPOCHS, "seed=1")
    taken = forked("train.py", *words, home=home, env=OFFLINE)
    return loser_line([taken, refused])


KINDS: list[Callable[[Path], str]] = [twice, seeds, train_and_resume, two_resumes, killed_winner]


@pytest.mark.faults
def test_races(tmp_path):
    rows = []
    for number in range(20):
        kind = KINDS[number % len(KINDS)]
        home = tmp_path / f"{number}"
        home.mkdir()
        line = kind(home)
        seed = read_config(home / "run" / "config.yaml")["seed"]
        alone = tmp_path / f"alone{seed}"
        if not alone.exists():
            words = (*TINY, EPOCHS[0], f"seed={seed}", f"hydra.run.dir={alone}")
            assert forked("train.py", *words, home=tmp_path, env=OFFLINE).status == 0
        check_one_writer(home / "run", alone)
        told = f"one winner (seed {seed}), whole files; the other: {line.replace(f'{home}/run', 'RUN')}"
        rows.append(f"{number + 1:2} {kind.__name__:17} {told}")
    print("\n".join(rows))


@pytest.mark.faults
def test_evaluation_during_training(tmp_path):
    running = begin(tmp_path, *TINY, "hydra.run.dir=run", "trainer.max_epochs=15", "seed=1")
    wait_for(RunDirectory(tmp_path / "run").best_checkpoint)
    words = ("ckpt_path=run/checkpoints/best.ckpt", "nll.samples=2")
    evaluations = [start("evaluate.py", *words, home=tmp_path) for _ in range(2)]
    assert [each.finish().status for each in evaluations] == [0, 0]
    assert running.finish().status == 0
    assert {"evaluation.json", "summary.json"} <= set(check_whole(tmp_path / "run"))
