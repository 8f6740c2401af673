"""An offline run read back from its record on disk."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any


def runs(folder: Path) -> list[Path]:
    """The records of a run directory, oldest first: a resumed run has several."""
    return sorted((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime)


@cache
def records(run_dir: Path) -> list[dict[str, Any]]:
    """What was recorded, in order."""
    wandb = str(Path(sys.executable).parent / "wandb")
    read = subprocess.run(
        [wandb, "leet", "inspect", "--json", str(run_dir)], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in read.stdout.splitlines() if line.startswith("{")]


def gather(run_dir: Path, kind: str, *path: str) -> dict[str, Any]:
    """The updates of one kind of record, merged."""
    merged: dict[str, Any] = {}
    for record in records(run_dir):
        node = record.get(kind, {})
        for key in path:
            node = node.get(key, {})
        merged |= node
    return merged


def summary(run_dir: Path) -> dict[str, Any]:
    """The numbers that a run ended with, and its media by dotted key."""
    return dict(dotted(gather(run_dir, "summary", "update")))


def dotted(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree of mappings."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
