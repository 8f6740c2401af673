"""Everything recorded except metrics: figures, tables, checkpoints, results, and the end of a run.

Each `record_*` function dispatches on the class of the logger. A logger that cannot show something ignores it. The
module of a logger registers its implementations, for example with `record_figure.register`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

Rows = Sequence[Sequence[Any]]


@singledispatch
def start(logger: Logger) -> None:
    """Open the record of a run. If the run resumes, make the earlier metrics equal to metrics.csv."""


@singledispatch
def record_figure(logger: Logger, key: str, path: Path, step: int, epoch: int, caption: str) -> None:
    """Show the PNG file `path` under `key`."""


@singledispatch
def record_table(logger: Logger, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    """Show a table under `key`."""


@singledispatch
def record_best(logger: Logger, monitor: str, value: float) -> None:
    """Record the metric `monitor` of the best checkpoint. The metric that chose it is recorded last."""


@singledispatch
def record_summary(logger: Logger, values: Mapping[str, float]) -> None:
    """Record the final numbers of a run, by default as a row of metrics."""
    logger.log_metrics(dict(values))


@singledispatch
def record_checkpoint(logger: Logger, path: Path, metadata: dict[str, Any]) -> None:
    """Save the best checkpoint `path`, if the logger was asked to."""


@singledispatch
def close(logger: Logger, exit_code: int) -> None:
    """End the run with an exit status, 0 for success."""


def log_figure(
    loggers: Iterable[Logger], key: str, path: Path, step: int, epoch: int = 0, caption: str = ""
) -> None:
    """Show the PNG file `path` under `key` at the global step `step` of `epoch`, in every logger."""
    for logger in loggers:
        record_figure(logger, key, path, step, epoch, caption)


def log_table(loggers: Iterable[Logger], key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    """Show a table of `rows`, each as long as `columns`, under `key` at the global step `step`, in every logger."""
    for logger in loggers:
        record_table(logger, key, columns, rows, step)


def log_best(loggers: Iterable[Logger], monitor: str, value: float) -> None:
    """Record the metric `monitor` of the best checkpoint in every logger."""
    for logger in loggers:
        record_best(logger, monitor, value)


def log_summary(loggers: Sequence[Logger], summary: Mapping[str, Any], step: int) -> None:
    """Record the numbers of a summary in every logger, with the KL of each layer, `test/kl_1`..., as a table."""
    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    for logger in loggers:
        record_summary(logger, numbers)
    if rows := layer_kls(numbers):
        log_table(loggers, "tables/layer_kl", ["layer", "kl"], rows, step)


def layer_kls(numbers: Mapping[str, float]) -> list[list[Any]]:
    """Return rows (layer, KL in nats) of a summary, from the layer next to the data upwards."""
    found = {name: re.fullmatch(r"test/kl_(\d+)", name) for name in numbers}
    return sorted([int(level.group(1)), numbers[name]] for name, level in found.items() if level)


def log_checkpoint(loggers: Iterable[Logger], path: Path, metadata: dict[str, Any]) -> None:
    """Save the best checkpoint in every logger that was asked to."""
    for logger in loggers:
        record_checkpoint(logger, path, metadata)


def finish(loggers: Iterable[Logger], exit_code: int = 0) -> None:
    """End the run in every logger with an exit status."""
    for logger in loggers:
        close(logger, exit_code)
