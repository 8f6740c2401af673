"""TensorBoard: event files in RUN/tensorboard."""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.tracking.record import record_figure, record_summary, start
from latentlab.tracking.rewind import logged, rewind, take

Point = tuple[str, int, bytes]

LENGTH = struct.Struct("<Q")
CHECKSUM = 4  # bytes


def tensorboard_logger(save_dir: str) -> TensorBoardLogger:
    """Return the logger that writes event files to `save_dir`/tensorboard.

    Args:
        save_dir: the run directory.

    Raises:
        UserError: if TensorBoard is not installed.
    """
    folder = RunDirectory(Path(save_dir)).tensorboard
    try:
        return TensorBoardLogger(save_dir, name=folder.name, version="", default_hp_metric=False)
    except ModuleNotFoundError as error:
        raise UserError(
            "logger=tensorboard: TensorBoard is not installed; pip install tensorboard"
        ) from error


@start.register
@rank_zero_only
def _(logger: TensorBoardLogger) -> None:
    run = RunDirectory(Path(str(logger.save_dir)))
    rows = [(name, step, value) for row, step in logged(run.metrics) for name, value in row.items()]
    files = sorted(run.tensorboard.glob("events.out.tfevents.*"))
    missing, _ = rewind(files, [_point(*each) for each in rows], _entries)
    writer: Any = logger.experiment
    for name, step, value in rows:
        if take(missing, _point(name, step, value)):
            writer.add_scalar(name, value, step)


@record_figure.register
def _(logger: TensorBoardLogger, key: str, path: Path, step: int, epoch: int, caption: str) -> None:
    from matplotlib.image import imread  # late, as it is slow to import

    writer: Any = logger.experiment
    writer.add_image(key, imread(path)[..., :3], step, dataformats="HWC")


@record_summary.register
def _(logger: TensorBoardLogger, values: Mapping[str, float]) -> None:
    # Not as points, which would be at step 0.
    lines = [f"| {name} | {value} |" for name, value in values.items()]
    writer: Any = logger.experiment
    writer.add_text("summary", "\n".join(["| name | value |", "|---|---|", *lines]))


def _point(name: str, step: int, value: float) -> Point:
    return name, step, struct.pack("<f", value)  # TensorBoard keeps 32 bits


def _entries(data: bytes) -> Iterator[tuple[int, Point | None]]:
    """Yield the end of each whole event in a file of TFRecords, and its point if it has one."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

    position = 0
    while position + LENGTH.size <= len(data):
        first = position + LENGTH.size + CHECKSUM
        last = first + LENGTH.unpack_from(data, position)[0]
        position = last + CHECKSUM
        if position > len(data):
            return
        try:
            event = Event.FromString(data[first:last])
        except DecodeError:
            return
        found = [value for value in event.summary.value if value.WhichOneof("value") == "simple_value"]
        yield position, _point(found[0].tag, event.step, found[0].simple_value) if found else None
