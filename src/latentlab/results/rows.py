"""The published rows: a protocol as a command, its figure and the source of the figure."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked
from yaml import YAMLError  # type: ignore[import-untyped]

from latentlab.cli import experiment
from latentlab.cli.calls import composed
from latentlab.errors import UserError
from latentlab.run.plain import read_plain

PUBLISHED = Path(__file__).with_name("published.yaml")
ANY_RUN = "run=RUN"


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Row:
    """One row of a published table.

    Attributes:
        table: the title of its table.
        model: the name of the model in it.
        command: the arguments of train.py, which are the protocol.
        metric: the name of the result, with the sign that latentlab gives it.
        evaluate: the arguments of evaluate.py that give the result, None if the training gives it.
        published: the published figure, None if there is none.
        published_error: its standard deviation over runs.
        source: the source of the figure.
        hours_cpu: the hours of one training on one thread of a CPU.
        hours_gpu: the hours of one training on a GPU.
        note: a remark.
    """

    table: str
    model: str
    command: str
    metric: str
    evaluate: str | None = None
    published: float | None = None
    published_error: float | None = None
    source: str | None = None
    hours_cpu: float | None = None
    hours_gpu: float | None = None
    note: str | None = None

    @property
    def name(self) -> str:
        return f"{self.table}, {self.model}"


@dataclass(frozen=True)
class Protocol:
    """A row with the config of its command, and with the settings of its evaluation by dotted key."""

    row: Row
    config: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def limit(self) -> tuple[int, str]:
        """The full budget and its unit."""
        return limit(self.config)


def limit(config: Mapping[str, Any]) -> tuple[int, str]:
    """Return the largest number of steps, epochs or iterations of a training, and the unit.

    A classical inference on observations counts iterations. An epoch has `data.steps_per_epoch` of them.
    """
    steps, epochs = (config["trainer"].get(key) or -1 for key in ("max_steps", "max_epochs"))
    each = iterations_per_epoch(config)
    if steps > 0:
        return int(steps), "iterations" if each else "steps"
    return int(max(epochs, 0) * (each or 1)), "iterations" if each else "epochs"


def iterations_per_epoch(config: Mapping[str, Any]) -> int | None:
    """Return the iterations in an epoch of a classical inference on observations, None for other models."""
    return (config.get("data") or {}).get("steps_per_epoch")


def read_rows(path: Path = PUBLISHED) -> list[Row]:
    """Return the rows in a YAML file.

    Raises:
        UserError: if there is no such file, or for the first mistake in it.
    """
    try:
        return TypeAdapter(list[Row]).validate_python(read_plain(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"rows={path}: {place}: {first['msg'].lower()}") from error
    except (YAMLError, ValueError, OSError) as error:
        raise UserError(f"rows={path}: {' '.join(str(error).split())}") from error


def protocols(rows: Iterable[Row]) -> list[Protocol]:
    """Compose the command of each row.

    Raises:
        UserError: for the first command with a mistake.
    """
    return [_protocol(row) for row in rows]


def _protocol(row: Row) -> Protocol:
    try:
        return Protocol(row, trained(row.command), evaluated(row.evaluate or ""))
    except (UserError, ValueError) as error:
        raise UserError(f"the command of {row.name}: {error}") from error


@cache
def trained(command: str) -> dict[str, Any]:
    """Return the config of `train.py` with some arguments."""
    with composed("train", shlex.split(command)) as (cfg, job):
        return experiment.compose(cfg, job).config


@cache
def evaluated(words: str) -> dict[str, Any]:
    """Return the settings that some arguments of `evaluate.py` give, by dotted key."""
    keys = [word.partition("=")[0] for word in shlex.split(words)]
    with composed("evaluate", [ANY_RUN, *shlex.split(words)]) as (cfg, _):
        return {key: OmegaConf.select(cfg, key) for key in keys}


@cache
def default_setting(key: str) -> Any:
    """Return the setting that evaluate.py has without arguments."""
    with composed("evaluate", [ANY_RUN]) as (cfg, _):
        return OmegaConf.select(cfg, key)
