"""Hostile links, pipes and numbers: a function for each spoils the copy of a good run."""

import os
from pathlib import Path

from canary import OWNED, Spoil


def link(name: str) -> Spoil:
    """Put a link to a missing file outside of the run in the place of a file or folder."""
    return lambda run: _replaced(run / name).symlink_to(run.parent / f"{OWNED} by {Path(name).name}")


def pipe(name: str) -> Spoil:
    """Put a pipe in the place of a file."""
    return lambda run: os.mkfifo(_replaced(run / name))


def content(name: str, text: str) -> Spoil:
    """Replace a file."""
    return lambda run: (run / name).write_text(text)


def _replaced(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        path.unlink()
    elif path.exists():
        path.rename(path.with_name("moved"))
    return path


WRITTEN = (
    ".lock",
    "train.log",
    "metrics.csv",
    "environment.json",
    "summary.json",
    "evaluation.json",
    "evaluation.json.part",
    "figures",
)
CASES: dict[str, Spoil] = {
    **{f"a link as {name}": link(name) for name in (*WRITTEN, "wandb", ".hydra", "wandb_run_id.txt")},
    **{f"a pipe as {name}": pipe(name) for name in WRITTEN},
    "a metrics.csv that is cut": content("metrics.csv", "epoch,step\n0,1,2\n"),
    "a metrics.csv of long words": content("metrics.csv", f"{'x' * 200_000}\n1\n"),
    "a metrics.csv of other numbers": content("metrics.csv", "epoch,step\n0,1e999\n"),
}
