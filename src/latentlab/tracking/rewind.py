"""The records of other loggers, made equal to metrics.csv before a run resumes.

A killed run has lost the rows that a logger had not written yet, and a resumed run logs the rows after its checkpoint
again. A record may end after any entry, as that of a killed run does.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from latentlab.run.files import replaced
from latentlab.run.metrics import read_rows

Row = TypeVar("Row", bound=Hashable)


def logged(metrics: Path) -> list[tuple[dict[str, float], int]]:
    """Return the metrics and the step of each row of a metrics.csv, [] if there is no file."""
    known = [row for row in read_rows(metrics) if row["step"]]
    values = [{name: float(value) for name, value in row.items() if value} for row in known]
    return [(row, int(row.pop("step"))) for row in values]


def take(rows: Counter[Row], row: Row) -> bool:
    """Remove a row from a collection, and return True if it was there."""
    found = rows[row] > 0
    rows[row] -= found
    return found


def rewind(
    records: Iterable[Path],
    rows: Iterable[Row],
    entries: Callable[[bytes], Iterator[tuple[int, Row | None]]],
    is_sent: Callable[[Path], bool] = lambda record: False,
) -> tuple[Counter[Row], Counter[Row]]:
    """Cut each record before its first row that metrics.csv lacks. A sent record stays as it is.

    The resumed run logs again what is cut, the figures among it.

    Args:
        records: the records, oldest first.
        rows: the rows of metrics.csv.
        entries: yields the end of each whole entry of a record, and its row if it is one.
        is_sent: returns True for a record that a server has.

    Returns:
        The rows that no record holds, and the rows of sent records that metrics.csv lacks.
    """
    missing, ahead = Counter(rows), Counter[Row]()
    for record in records:
        data, sent, end = record.read_bytes(), is_sent(record), 0
        for stop, row in entries(data):
            if row is not None and not take(missing, row):
                if not sent:
                    break
                ahead[row] += 1
            end = stop
        if not sent:  # also if it is whole, since a service of the killed run may still write to the old file
            with replaced(record) as draft:
                draft.write_bytes(data[:end])
    return +missing, ahead
