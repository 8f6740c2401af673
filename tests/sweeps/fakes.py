"""Runs of the stand-in for train.py, and what they left."""

import csv
import subprocess
import sys
import time
from pathlib import Path

from commands import Finished, environment


def begin(app: Path, *words: str) -> subprocess.Popen[str]:
    """Start a multirun of the stand-in."""
    home = app.parent.parent
    return subprocess.Popen(
        [sys.executable, str(app), "-m", *words],
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Finished:
    """Wait for a multirun."""
    out, err = process.communicate(timeout=60)
    return Finished(process.returncode, out, err)


def run(app: Path, *words: str) -> Finished:
    """Run a multirun of the stand-in."""
    return end(begin(app, *words))


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
