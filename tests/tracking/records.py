"""A reader of offline W&B runs on disk."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any


def runs(folder: Path) -> list[Path]:
    """Return the records of a run directory, oldest first. A resumed run has several."""
    return sorted((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime)


@cache
def records(run_dir: Path) -> list[dict[str, Any]]:
    """Return the entries of a record in order."""
    wandb = str(Path(sys.executable).parent / "wandb")
    read = subprocess.run(
        [wandb, "leet", "inspect", "--json", str(run_dir)], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in read.stdout.splitlines() if line.startswith("{")]


def gather(run_dir: Path, kind: str, *path: str) -> dict[str, Any]:
    """Merge the updates of one kind of entry."""
    merged: dict[str, Any] = {}
    for record in records(run_dir):
        node = record.get(kind, {})
        for key in path:
            node = node.get(key, {})
        merged |= node
    return merged


def summary(run_dir: Path) -> dict[str, Any]:
    """Return the final numbers and media of a run by dotted key."""
    return dict(dotted(gather(run_dir, "summary", "update")))


def dotted(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings by dotted key."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
