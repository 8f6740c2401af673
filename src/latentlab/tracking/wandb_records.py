"""The offline records of a W&B run, made equal to metrics.csv before the run resumes.

A killed run has lost the rows that W&B had not written yet, and a resumed run logs the rows after its checkpoint again.
A record is a file RUN/wandb/offline-run-TIME-ID/run-ID.wandb in LevelDB's log format: entries in chunks, which do not
cross the boundaries of blocks. W&B has no public way to remove an entry. But a record may end after any entry, as that
of a killed run does.
"""

import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from latentlab.run.files import replaced

Row = frozenset[tuple[str, str]]

BLOCK = 2**15
MAGIC = 7  # the bytes before the first chunk
CHUNK = struct.Struct("<IHB")  # the checksum, the length and the kind of a chunk
FULL, FIRST, _, LAST = KINDS = range(1, 5)


def as_row(metrics: Mapping[str, Any]) -> Row:
    """Return a row of metrics that can be compared, NaN included."""
    return frozenset((name, repr(float(value))) for name, value in metrics.items())


def take(rows: Counter[Row], row: Row) -> bool:
    """Remove a row from a collection, and return True if it was there."""
    found = rows[row] > 0
    rows[row] -= found
    return found


def is_sent(record: Path) -> bool:
    """Return True if `wandb sync` has sent the record."""
    return record.with_name(f"{record.name}.synced").exists()


def reconcile(records: Iterable[Path], rows: Iterable[Row]) -> tuple[Counter[Row], Counter[Row]]:
    """Cut each record before its first row that metrics.csv lacks. A sent record stays as it is.

    The resumed run logs again what is cut, the figures among it.

    Args:
        records: the records in the order in which `wandb sync` joins them.
        rows: the rows of metrics.csv.

    Returns:
        The rows that no record holds, and the rows of sent records that metrics.csv lacks.
    """
    missing, ahead = Counter(rows), Counter[Row]()
    for record in records:
        data, sent, end = record.read_bytes(), is_sent(record), MAGIC
        for stop, row in _entries(data):
            if row is not None and not take(missing, row):
                if not sent:
                    break
                ahead[row] += 1
            end = stop
        if (
            not sent
        ):  # also if it is whole, since the service of the killed run may still write to the old file
            with replaced(record) as draft:
                draft.write_bytes(data[:end])
    return +missing, ahead


def _entries(data: bytes) -> Iterator[tuple[int, Row | None]]:
    """Yield the end of each whole entry, and its metrics if it is a row of them."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at import

    for end, entry in _joined(data):
        try:
            history = Record.FromString(entry).history
        except DecodeError:
            return
        values = {".".join(item.nested_key) or item.key: _value(item) for item in history.item}
        metrics = {name: value for name, value in values.items() if not name.startswith("_")}
        # Figures and tables hold more than numbers.
        is_row = metrics and all(isinstance(value, int | float) for value in metrics.values())
        yield end, as_row(metrics) if is_row else None


def _joined(data: bytes) -> Iterator[tuple[int, bytes]]:
    start, entry = MAGIC, b""
    while start + CHUNK.size <= len(data):
        room = BLOCK - start % BLOCK
        if room < CHUNK.size:  # the end of a block is padded
            start += room
            continue
        _, length, kind = CHUNK.unpack_from(data, start)
        end = start + CHUNK.size + length
        if kind not in KINDS or end > len(data):
            return
        entry = data[start + CHUNK.size : end] if kind in (FULL, FIRST) else entry + data[end - length : end]
        if kind in (FULL, LAST):
            yield end, entry
        start = end


def _value(item: Any) -> Any:
    return json.loads(item.value_json) if item.value_json else getattr(item, item.WhichOneof("value"))
