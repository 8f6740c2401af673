"""metrics.csv: one row for each call of a logger."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

from latentlab.errors import UserError
from latentlab.run.files import append_text, read_text, write_text
from latentlab.run.results import is_real

Row = Mapping[str, str]


class MetricsFile:
    """The writer of a metrics.csv.

    A row is on disk once it is appended, so a crash loses nothing. A metric that appears later adds a column.

    Args:
        path: the file, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []

    def append(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Append one row, with `epoch` and `step` as the first columns."""
        row: dict[str, Any] = {name: float(value) for name, value in metrics.items()}
        epoch = row.pop("epoch", None)
        row = {"epoch": None if epoch is None else int(epoch), "step": step, **row}
        self._extend_columns(row)
        append_text(self.path, _lines(self.columns, [row]))

    def count(self) -> int:
        """Return the number of rows."""
        lines = self.path.read_bytes().count(b"\n") if self.path.exists() else 0
        return max(0, lines - 1)

    def rewind(self, steps: int, rows: int | None = None) -> None:
        """Remove the rows that a resumed run writes again: those after the first `steps` steps.

        Args:
            steps: the number of steps that the run resumes after.
            rows: the number of rows then, None if it is unknown. The last step may have several.
        """
        if not self.path.exists():
            return
        known = read_rows(self.path)[:rows]
        with _explained(self.path):
            kept = [row for row in known if row.get("step") and int(row["step"]) < steps]
        _replace(self.path, _read_columns(self.path), kept)

    def _extend_columns(self, names: Iterable[str]) -> None:
        first = not self.columns
        known = _read_columns(self.path) if first else self.columns
        self.columns = [*known, *(name for name in names if name not in known)]
        # A crash may have cut the last line short, so the file is rewritten at first.
        if first or len(self.columns) > len(known):
            _replace(self.path, self.columns, read_rows(self.path))


class NewRows:
    """A reader that follows a metrics.csv while a run writes it.

    Args:
        path: the file, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = 0

    def read(self) -> list[Row]:
        """Return the rows since the last call."""
        try:
            # A new column rewrites the file, so rows are counted instead of bytes.
            rows: list[Row] = list(read_rows(self.path))
        except UserError:
            return []
        seen = self._seen if self._seen <= len(rows) else 0  # a resumed run rewinds the file
        self._seen = len(rows)
        return rows[seen:]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return all rows, [] if there is no file.

    Raises:
        UserError: if the file is damaged.
    """
    with _explained(path):
        rows = list(csv.DictReader(StringIO(_text(path)), restkey=""))
        for row in rows:
            _check(row)
    return rows


def read_curve(path: Path, metric: str) -> dict[int, float]:
    """Return a metric by epoch, counted from 1. An epoch with several values has their mean.

    Raises:
        UserError: if the metric was not logged, or the file is damaged.
    """
    values: defaultdict[int, list[float]] = defaultdict(list)
    rows = read_rows(path)
    with _explained(path):
        for row in rows:
            if row["epoch"] and row.get(metric):
                values[int(row["epoch"]) + 1].append(float(row[metric]))
    if not values:
        known = [name for name in _read_columns(path) if name.startswith(("train/", "val/"))]
        raise UserError(f"{path}: {metric} was not logged; choose metric= one of {', '.join(known)}")
    return {epoch: fmean(found) for epoch, found in sorted(values.items())}


def _check(row: Row) -> None:
    # The last row of a killed run may be short.
    if "" in row:
        raise ValueError("a row has more values than there are columns")
    for name, value in row.items():
        if value and not is_real((int if name in ("epoch", "step") else float)(value)):
            raise ValueError(f"{name} is {value[:20]}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (csv.Error, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): run the experiment again") from error


def _text(path: Path) -> str:
    return _whole_lines(read_text(path)) if path.exists() else ""


def _whole_lines(text: str) -> str:
    # The last line may be half written, by a running process or one that was killed.
    return text[: text.rfind("\n") + 1]


def _read_columns(path: Path) -> list[str]:
    with _explained(path):
        return next(csv.reader(StringIO(_text(path))), [])


def _replace(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    header = dict(zip(columns, columns, strict=True))
    write_text(path, _lines(columns, [header, *rows]))


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = StringIO(newline="")
    csv.DictWriter(text, columns, extrasaction="ignore").writerows(rows)
    return text.getvalue()
