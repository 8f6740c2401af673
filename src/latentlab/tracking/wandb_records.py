"""The offline records of W&B.

A record is a file RUN/wandb/offline-run-TIME-ID/run-ID.wandb in LevelDB's log format: entries in chunks, which do not
cross the boundaries of blocks. W&B has no public function that removes entries.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = frozenset[tuple[str, str]]

BLOCK = 2**15
MAGIC = 7  # the bytes before the first chunk
CHUNK = struct.Struct("<IHB")  # the checksum, the length and the kind of a chunk
FULL, FIRST, _, LAST = KINDS = range(1, 5)


def offline_records(folder: Path) -> list[Path]:
    """Return the offline records in a W&B folder, in the order in which `wandb sync` joins them."""
    return sorted(folder.glob("offline-run-*/*.wandb"))


def is_sent(record: Path) -> bool:
    """Return True if `wandb sync` has sent the record."""
    return record.with_name(f"{record.name}.synced").exists()


def as_row(metrics: Mapping[str, Any]) -> Row:
    """Return a row of metrics that can be compared, NaN included."""
    return frozenset((name, repr(float(value))) for name, value in metrics.items())


def entries(data: bytes) -> Iterator[tuple[int, Row | None]]:
    """Yield the end of each whole entry, and its metrics if it is a row of them."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at import

    yield min(MAGIC, len(data)), None
    for end, entry in _joined(data):
        try:
            history = Record.FromString(entry).history
            values = {".".join(item.nested_key) or item.key: _value(item) for item in history.item}
        except (DecodeError, ValueError, TypeError, RecursionError):  # the record may come from somebody else
            return
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
