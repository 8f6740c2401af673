"""What is recorded beside metrics: figures, tables, checkpoints, results, and the end of a run.

Each `record_*` dispatches on the logger's class; a logger that cannot show the thing ignores it. Another
logger joins with `record_figure.register`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

Rows = Sequence[Sequence[Any]]


@singledispatch
def record_figure(logger: Logger, key: str, path: Path, step: int, epoch: int, caption: str) -> None:
    """Show the PNG file `path` under `key` at the global step `step` of `epoch`."""


@singledispatch
def record_table(logger: Logger, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    """Show a table of `rows`, each as long as `columns`, under `key` at the global step `step`."""


@singledispatch
def record_best(logger: Logger, monitor: str, value: float) -> None:
    """Note that the metric `monitor` has a new maximum."""


@singledispatch
def record_summary(logger: Logger, values: Mapping[str, float]) -> None:
    """Note the numbers that a run ends with; one more row of metrics, where there is no other place."""
    logger.log_metrics(dict(values))


@singledispatch
def record_checkpoint(logger: Logger, path: Path, metadata: dict[str, Any]) -> None:
    """Keep the best checkpoint `path`, if the logger was asked to."""


@singledispatch
def close(logger: Logger, exit_code: int) -> None:
    """End the run with an exit status, 0 for success."""


def log_figure(
    loggers: Iterable[Logger], key: str, path: Path, step: int, epoch: int = 0, caption: str = ""
) -> None:
    """Show the PNG file `path` under `key` in every logger that shows images."""
    for logger in loggers:
        record_figure(logger, key, path, step, epoch, caption)


def log_table(loggers: Iterable[Logger], key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    """Show a table under `key` in every logger that shows tables."""
    for logger in loggers:
        record_table(logger, key, columns, rows, step)


def log_best(loggers: Iterable[Logger], monitor: str, value: float) -> None:
    """Note the maximum of the metric `monitor` in every logger that has a place for it."""
    for logger in loggers:
        record_best(logger, monitor, value)


def log_summary(loggers: Sequence[Logger], summary: Mapping[str, Any], step: int) -> None:
    """Note the numbers of a summary in every logger, and the KL of each layer, `test/kl_1`..., as a table."""
    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    for logger in loggers:
        record_summary(logger, numbers)
    if rows := layer_kls(numbers):
        log_table(loggers, "tables/layer_kl", ["layer", "kl"], rows, step)


def layer_kls(numbers: Mapping[str, float]) -> list[list[Any]]:
    """The layers, from the data upwards, and the KL of each in nats."""
    found = {name: re.fullmatch(r"test/kl_(\d+)", name) for name in numbers}
    return sorted([int(level.group(1)), numbers[name]] for name, level in found.items() if level)


def log_checkpoint(loggers: Iterable[Logger], path: Path, metadata: dict[str, Any]) -> None:
    """Keep the best checkpoint in every logger that was asked to."""
    for logger in loggers:
        record_checkpoint(logger, path, metadata)


def finish(loggers: Iterable[Logger], exit_code: int = 0) -> None:
    """End the run in every logger with an exit status, so that the next run of the process is its own."""
    for logger in loggers:
        close(logger, exit_code)
