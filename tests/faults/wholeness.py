"""The files of a run, each of which must be whole."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from PIL import Image

from latentlab.run.checkpoints import read_checkpoint
from latentlab.run.directory import RunDirectory

TINY = ("data=binarised_digits", "callbacks=none", "encoder.hidden=[16]", "decoder.hidden=[16]")
OFFLINE = {"WANDB_MODE": "offline"}


def read_png(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


def read_csv(path: Path) -> list[dict[str, str]]:
    text = path.read_text()
    assert text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines()))
    assert all(None not in row and None not in row.values() for row in rows)  # as many values as columns
    return rows


def read_word(path: Path) -> None:
    assert path.read_text().strip()


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".yaml": OmegaConf.load,
    ".csv": read_csv,
    ".ckpt": read_checkpoint,
    ".png": read_png,
    ".txt": read_word,
}


def check_whole(folder: Path) -> list[str]:
    """Read every file of an ended run, except W&B's own, and return their names. Nothing else may be left."""
    run = RunDirectory(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    own = [path for path in paths if run.wandb not in path.parents or path == run.wandb_summary]
    for path in own:
        if path != run.log:
            READERS[path.suffix](path)
    return [str(path.relative_to(folder)) for path in own]


def curve(folder: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without times."""
    rows = read_csv(RunDirectory(folder).metrics)
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def wandb_runs(folder: Path) -> set[str]:
    """Return the ids of the offline W&B runs in a run directory."""
    return {path.name.rpartition("-")[2] for path in RunDirectory(folder).wandb.glob("offline-run-*")}
