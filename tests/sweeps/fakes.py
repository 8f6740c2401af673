"""Runs of the stand-in for train.py, and what they left."""

import csv
import time
from pathlib import Path

from forks import Ended, Running, start


def begin(app: Path, *words: str) -> Running:
    """Start a multirun of the stand-in."""
    return start(str(app), "-m", *words, home=app.parent.parent)


def run(app: Path, *words: str) -> Ended:
    """Run a multirun of the stand-in."""
    return begin(app, *words).finish()


def starts(directory: Path) -> list[list[str]]:
    """Return time, process id and GPUs of each start of a job."""
    return [line.split() for line in (directory / "began").read_text().splitlines()]


def epochs(directory: Path) -> list[str]:
    """Return the epochs in metrics.csv."""
    with (directory / "metrics.csv").open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def wait_for(path: Path) -> None:
    """Wait for a file that is not empty."""
    deadline = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size > 0):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)
