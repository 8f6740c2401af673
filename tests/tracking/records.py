"""A reader of offline W&B runs on disk."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROW = dict[str, float]


def runs(folder: Path) -> list[Path]:
    """Return the records of a run directory, oldest first. A resumed run has several."""
    return sorted((folder / "wandb").glob("offline-run-*"))  # named by the time of their start


def records(run_dir: Path) -> list[dict[str, Any]]:
    """Return the entries of a record in order."""
    (file,) = run_dir.glob("*.wandb")
    return read(run_dir, file.stat().st_mtime_ns)


@cache
def read(run_dir: Path, written: int) -> list[dict[str, Any]]:
    """Return the entries of a record that was last written at a time."""
    wandb = str(Path(sys.executable).parent / "wandb")
    done = subprocess.run(
        [wandb, "leet", "inspect", "--json", str(run_dir)], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def gather(run_dir: Path, kind: str, *path: str) -> dict[str, Any]:
    """Merge the updates of one kind of entry."""
    merged: dict[str, Any] = {}
    for record in records(run_dir):
        node = record.get(kind, {})
        for key in path:
            node = node.get(key, {})
        merged |= node
    return merged


def history(folder: Path) -> list[ROW]:
    """Return the rows of metrics in all records of a run directory, joined as `wandb sync` joins them.

    The rows have the form and the order of those of `logged`. Figures and tables are left out.
    """
    items = [
        record["history"]["item"] for each in runs(folder) for record in records(each) if "history" in record
    ]
    metrics = [item for item in items if not any(name.endswith("._type") for name in item)]
    return by_step(
        {name: float(value) for name, value in item.items() if not name.startswith("_")} for item in metrics
    )


def logged(folder: Path) -> list[ROW]:
    """Return the rows of metrics.csv as W&B spells them, without the final row, which has no step."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return by_step({"trainer/global_step": row.pop("step"), **row} for row in rows if "step" in row)


def by_step(rows: Iterable[ROW]) -> list[ROW]:
    """Return rows sorted by step, and by their metrics. The metrics of a row are sorted by name."""
    return [dict(row) for row in sorted((sorted(row.items()) for row in rows), key=_step_first)]


def _step_first(row: list[tuple[str, float]]) -> tuple[float, list[tuple[str, float]]]:
    return dict(row)["trainer/global_step"], row


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
