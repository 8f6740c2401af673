"""The comparison of two runs, bit for bit."""

import csv
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from records import history, logged

# The parts of a checkpoint that are compared, by the column of the table. Lightning's counters are not results.
PARTS = {
    "weights": ("state_dict", "current_model_state", "averaging_state"),
    "optimiser": ("optimizer_states", "lr_schedulers", "callbacks", "epoch", "global_step"),
}
COLUMNS = (*PARTS, "metrics.csv", "W&B")


def differences(one: Path, other: Path) -> dict[str, list[str]]:
    """Return what differs between two runs, by the column of the table. Times are left out.

    W&B is left out if it was not used.
    """
    found: dict[str, list[str]] = {column: [] for column in COLUMNS[:-1]}
    for name in ("best", "last"):
        a, b = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for run in (one, other))
        for column, parts in PARTS.items():
            for part in parts:
                found[column] += [f"{name}{where}" for where in unequal(a.get(part), b.get(part), f".{part}")]
    pairs = zip_longest(rows(one), rows(other))
    found["metrics.csv"] = [f"row {n}: {a} != {b}" for n, (a, b) in enumerate(pairs) if a != b]
    if untimed(json.loads((one / "summary.json").read_text())) != untimed(
        json.loads((other / "summary.json").read_text())
    ):
        found["metrics.csv"].append("summary.json")
    if (one / "wandb").exists():
        uncut, known, own = history(one), history(other), logged(other)
        found["W&B"] = (
            [] if known == own and untimed_rows(known) == untimed_rows(uncut) else [f"{len(known)} rows"]
        )
    return found


def unequal(a: Any, b: Any, where: str) -> Iterator[str]:
    """Yield the places at which two states differ."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from unequal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from unequal(x, y, f"{where}.{n}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if not torch.equal(a, b):
            yield where
    elif a != b and not where.endswith("train_seconds"):
        yield f"{where}: {a} != {b}"


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without times."""
    with (run / "metrics.csv").open(newline="") as file:
        return [untimed(row) for row in csv.DictReader(file)]


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


def untimed_rows(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [untimed(item) for item in items]
