"""What is recorded beside numbers: figures, tables, checkpoints, and the end of a run.

Each `record_*` dispatches on the logger's class; a logger that cannot show the thing ignores it. Another
logger joins with `record_figure.register`.
"""

from collections.abc import Iterable, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

Rows = Sequence[Sequence[Any]]


@singledispatch
def record_figure(logger: Logger, key: str, path: Path, step: int, caption: str) -> None:
    """Show the PNG file `path` under `key` at the global step `step`."""


@singledispatch
def record_table(logger: Logger, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    """Show a table of `rows`, each as long as `columns`, under `key` at the global step `step`."""


@singledispatch
def record_checkpoint(logger: Logger, path: Path, metadata: dict[str, Any]) -> None:
    """Keep the best checkpoint `path`, if the logger was asked to."""


@singledispatch
def close(logger: Logger, exit_code: int) -> None:
    """End the run with an exit status, 0 for success."""


def log_figure(loggers: Iterable[Logger], key: str, path: Path, step: int, caption: str = "") -> None:
    """Show the PNG file `path` under `key` in every logger that shows images."""
    for logger in loggers:
        record_figure(logger, key, path, step, caption)


def log_table(loggers: Iterable[Logger], key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    """Show a table under `key` in every logger that shows tables."""
    for logger in loggers:
        record_table(logger, key, columns, rows, step)


def log_checkpoint(loggers: Iterable[Logger], path: Path, metadata: dict[str, Any]) -> None:
    """Keep the best checkpoint in every logger that was asked to."""
    for logger in loggers:
        record_checkpoint(logger, path, metadata)


def finish(loggers: Iterable[Logger], exit_code: int = 0) -> None:
    """End the run in every logger with an exit status, so that the next run of the process is its own."""
    for logger in loggers:
        close(logger, exit_code)
