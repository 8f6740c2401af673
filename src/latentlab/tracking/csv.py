"""metrics.csv in the run directory: one row for each call of a logger, whatever else records the run."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only


class CSVMetrics(Logger):
    """Appends metrics to `save_dir`/metrics.csv.

    Lightning's `CSVLogger` deletes the file of before a resume; this one goes on where it ends. A row is on
    disk once it is logged, so that a crash loses nothing, and a metric that comes later adds a column.

    Args:
        save_dir: the run directory.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.columns: list[str] = []

    @property
    def name(self) -> str:
        """Empty: the file lies in the run directory itself."""
        return ""

    @property
    def version(self) -> str:
        """Empty: a run directory holds one run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row; `epoch` and `step` are the first columns."""
        row = {name: float(value) for name, value in metrics.items()}
        head = {"epoch": _whole(row.pop("epoch", None)), "step": step}
        self._extend_columns([*head, *row])
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(head | row)

    def _extend_columns(self, names: Iterable[str]) -> None:
        first = not self.columns
        known = _read_columns(self.path) if first else self.columns
        self.columns = [*known, *(name for name in names if name not in known)]
        # At first always: a crash may have cut the last line short.
        if first or len(self.columns) > len(known):
            self._rewrite()

    def _rewrite(self) -> None:
        rows = _read_rows(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self.path, self.columns, rows)


def rewind(path: Path, steps: int) -> None:
    """Drop the rows that a run wrote after its first `steps` steps, and writes again when it goes on from there."""
    if not path.exists():
        return
    kept = [row for row in _read_rows(path) if row.get("step") and int(row["step"]) < steps]
    _replace(path, _read_columns(path), kept)


def _replace(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    draft = path.with_suffix(".csv.part")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(draft, path)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _read_columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
