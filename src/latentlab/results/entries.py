"""The runs behind the page: each is taken for the rows whose protocol it followed."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from inspect import signature
from operator import getitem
from pathlib import Path
from typing import Any

from latentlab.errors import UserError
from latentlab.results.rows import Protocol, default_setting, iterations_per_epoch
from latentlab.run.config import CHECKSUM, SOURCE, leaves, read_config, shown
from latentlab.run.directory import RunDirectory
from latentlab.run.environment import SESSIONS
from latentlab.run.metrics import read_curve, read_rows
from latentlab.run.results import CHECKPOINT, SETTINGS, evaluations_of, read_mapping, read_results
from latentlab.run.resuming import (
    ABSENT,
    DEVICES,
    FORMER_MONITORS,
    HARMLESS,
    LIMITS,
    MONITORS,
    Difference,
    differences,
    is_among,
    users_key,
)
from latentlab.run.trust import locate

# Settings in which a run may differ from its protocol: the budget is reported, and the others change rounding at most.
FREE = (
    *HARMLESS,
    *LIMITS,
    *DEVICES,
    *("seed", "data.seed", "data.source.seed", "data.eval_batch_size", "data.on_device"),
    *("validate_args", "compile", "trainer.precision", "trainer.use_distributed_sampler"),
    *("callbacks.timing", "callbacks.resume", "callbacks.last", "callbacks.gradient_variance"),
)
# Words of evaluate.py without an influence on its numbers, which evaluation.json does not record.
UNRECORDED = (
    *("figures", "export", "export_n", "export_seed", "wandb", "output_dir", "data", "trust"),
    *("accelerator", "devices", "nll.chunk", "debug", "hydra"),
)
# The words that a printed command may take from a run's config, which may come from somebody else.
WORDS = {
    "accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "precision": ("32-true", "bf16-mixed", "16-mixed", "64-true", 32, 64, "32", "64"),
}
CURVES = ("val/elbo", "train/elbo")


@dataclass(frozen=True)
class Budget:
    """The length of a training.

    Attributes:
        used: the epochs, steps or iterations of the run.
        full: those of its protocol.
        unit: epochs, steps or iterations.
        ended: True if the training ended by its own rule, as early stopping or convergence.
    """

    used: int
    full: int
    unit: str
    ended: bool = False

    @property
    def whole(self) -> bool:
        """True if the run has the budget of its protocol."""
        return self.used == self.full or (self.ended and self.used < self.full)

    @property
    def share(self) -> float:
        return 1.0 if self.whole else self.used / self.full if self.full else math.inf


@dataclass(frozen=True)
class Length:
    """The optimiser steps of a run, and the epochs that it trained from start to end."""

    steps: int
    epochs: int


@dataclass(frozen=True)
class Curve:
    """A metric by epoch, from 1."""

    metric: str
    values: Mapping[int, float]


@dataclass(frozen=True)
class Entry:
    """A run as an entry of a row.

    Attributes:
        protocol: the row.
        path: the run directory.
        seed: its seed.
        value: the row's metric.
        error: its standard error over the test examples, None if it was not estimated.
        budget: the length of the training.
        data: the data set and its protocol.
        checksum: the checksum of the data, else the path of their file, "" for a data set with one version.
        hours: the hours of the training.
        commits: the commits of the code, one for each that a resumed run had.
        machine: the processor or the GPUs.
        curve: the learning curve, None if no bound was logged.
        devices: the settings of the devices that differ from the row's command.
        limits: the limits of the training that differ from the row's command.
    """

    protocol: Protocol
    path: Path
    seed: int
    value: float
    error: float | None
    budget: Budget
    data: str
    checksum: str
    hours: float | None
    commits: tuple[str, ...]
    machine: str
    curve: Curve | None
    devices: tuple[str, ...]
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """The entries of a run, and a remark for each row that lacks its result."""

    entries: Sequence[Entry]
    remarks: Sequence[str]


def read_entries(run: RunDirectory, known: Sequence[Protocol]) -> Reading:
    """Return a finished run as entries of all rows whose protocol it followed.

    Raises:
        UserError: if it followed no protocol, with the setting that differs from the closest one, or is damaged.
    """
    try:
        return _read(run, known)
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"a file of it is damaged ({type(error).__name__}: {reason})") from error


def _read(run: RunDirectory, known: Sequence[Protocol]) -> Reading:
    needs = {"names": dict, "module": dict, "trainer": dict, "callbacks": dict, "seed": int}
    config = read_config(run.config, needs=needs)
    found = {each.row: list(_differences(each, config)) for each in known}
    same = [each for each in known if not found[each.row]]
    if not same:
        raise UserError(_nearest(found, config))
    read = [(each, _result(each, run)) for each in same]
    entries = [_entry(each, run, config, *result) for each, result in read if result]
    return Reading(entries, [_missing(each, run) for each, result in read if result is None])


def _differences(protocol: Protocol, config: Mapping[str, Any]) -> list[Difference]:
    return [
        (key, asked, known)
        for key, asked, known in differences(protocol.config, config, FREE)
        if not (key in MONITORS and asked in (None, ABSENT) and known in FORMER_MONITORS)
        and not (known is ABSENT and _is_default(protocol.config, key, asked))
    ]


def _is_default(config: Mapping[str, Any], key: str, value: Any) -> bool:
    """Return True for the default of a class, which has gained the argument since an older run."""
    *path, name = key.split(".")
    if path[0] in config["module"]:
        path.insert(0, "module")
    node = reduce(getitem, path, config)
    parameters = signature(locate(node["_target_"], key)).parameters if "_target_" in node else {}
    return name in parameters and parameters[name].default == value


def _nearest(found: Mapping[Any, Sequence[Difference]], config: Mapping[str, Any]) -> str:
    row = min(found, key=lambda each: len(found[each]), default=None)
    if row is None:
        return "there are no rows"
    key, asked, known = found[row][0]
    more = len(found[row]) - 1
    values = [shown("no value" if value is ABSENT else value) for value in (known, asked)]
    others = f" and {more} more setting{'s' * (more > 1)}" if more else ""
    return (
        f"no row has its protocol; the closest one ({row.name}) differs in {users_key(key, config)}: "
        f"{values[0]} here, {values[1]} there{others}"
    )


def _result(protocol: Protocol, run: RunDirectory) -> tuple[float, float | None] | None:
    """Return the metric of a row and its standard error, None if the run has no such result."""
    metric = protocol.row.metric
    for results in _evaluations(protocol, run):
        if metric in results and math.isfinite(results[metric]):
            return results[metric], _finite(results.get(f"{metric}_stderr"))
    return None


def _finite(value: Any) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _evaluations(protocol: Protocol, run: RunDirectory) -> list[Mapping[str, Any]]:
    if protocol.row.evaluate is None:
        return [read_results(run.summary)]
    found = evaluations_of(run.evaluation, run.best_checkpoint)
    return [each for each in found if _has(each, protocol.settings, run.best_checkpoint.name)]


def _has(results: Mapping[str, Any], asked: Mapping[str, Any], checkpoint: str) -> bool:
    settings = results.get(SETTINGS)
    if not isinstance(settings, dict) or settings.get(CHECKPOINT, checkpoint) != checkpoint:
        return False
    counting = {key: value for key, value in asked.items() if not is_among(key, UNRECORDED)}
    return all(settings.get(key, default_setting(key)) == value for key, value in counting.items())


def _missing(protocol: Protocol, run: RunDirectory) -> str:
    row = protocol.row
    remedy = (
        ""
        if row.evaluate is None
        else f": run `python evaluate.py run={shlex.quote(str(run.path))} {row.evaluate}`"
    )
    return f"{run.path} has no {row.metric} for {row.name}{remedy}"


def _entry(
    protocol: Protocol, run: RunDirectory, config: Mapping[str, Any], value: float, error: float | None
) -> Entry:
    summary, sessions = read_results(run.summary), _sessions(run)
    seconds, length = _finite(summary.get("time/train_seconds")), _length(run, config, summary)
    return Entry(
        protocol,
        run.path,
        config["seed"],
        value,
        error,
        budget(protocol, config, length),
        _data(config, summary),
        _checksum(config),
        None if seconds is None else seconds / 3600,
        tuple(
            dict.fromkeys(str((each.get("commits") or {}).get("latentlab", "unknown")) for each in sessions)
        ),
        _machine(sessions[-1], config) if sessions else "unknown",
        _curve(run),
        tuple(_devices(protocol.config["trainer"], config["trainer"])),
        tuple(_limits(protocol.config["trainer"], config["trainer"], length)),
    )


def budget(protocol: Protocol, config: Mapping[str, Any], length: Length) -> Budget:
    """Return the length of a run and that of its protocol."""
    full, unit = protocol.limit
    used = length.epochs if unit == "epochs" else length.steps
    return Budget(used, full, unit, _stops(config) and not _reached(config, length))


def _stops(config: Mapping[str, Any]) -> bool:
    """Return True if a training may end by its own rule, as early stopping or convergence."""
    targets = [
        str((node or {}).get("_target_")) for node in (config["module"], *config["callbacks"].values())
    ]
    return "Classical" in targets[0] or any("EarlyStopping" in each for each in targets[1:])


def _reached(config: Mapping[str, Any], length: Length) -> bool:
    """Return True if a run went as far as a limit of its config, or has a limit of time."""
    most_steps, most_epochs = (config["trainer"].get(key) or -1 for key in ("max_steps", "max_epochs"))
    return (
        config["trainer"].get("max_time") is not None
        or 0 < most_steps <= length.steps
        or 0 < most_epochs <= length.epochs
    )


def _length(run: RunDirectory, config: Mapping[str, Any], summary: Mapping[str, Any]) -> Length:
    """Return the length of a run. A limit of steps or time may end its last epoch early, which does not count then."""
    rows = [row for row in read_rows(run.metrics) if row.get("step") and row.get("epoch")]
    tested = [row for row in rows if any(row[name] for name in row if name.startswith("test/"))]
    # A row of the training has the index of its step, and one of the test the number of steps.
    ends = {int(row["epoch"]): int(row["step"]) + 1 for row in rows if row not in tested}
    done = max([*ends.values(), *(int(row["step"]) for row in tested)], default=0)
    steps = int(summary.get("train/iterations", done))
    if each := iterations_per_epoch(config):
        return Length(steps, steps // each)
    started = int(summary.get("trainer/epochs", max(ends, default=-1) + 1))
    most = config["trainer"].get("max_steps") or -1
    if config["trainer"].get("max_time") is None and not 0 < most <= steps:
        return Length(steps, started)
    whole = min(started, steps // ends[0]) if len(ends) > 1 and 0 in ends else started - 1
    return Length(steps, whole)


def _checksum(config: Mapping[str, Any]) -> str:
    values = dict(leaves(config.get("data") or {}, "data"))
    return str(values.get(CHECKSUM) or values.get(SOURCE) or "")


def _data(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    data = config.get("data") or {}
    return f"{data.get('dataset') or summary.get('data', '')}, {summary.get('protocol', '')}"


def _sessions(run: RunDirectory) -> list[dict[str, Any]]:
    found = read_mapping(run.environment).get(SESSIONS)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _machine(session: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    gpus = session.get("gpus") or []
    threads = session.get("threads")
    place = f"{gpus[0]}" if gpus else f"{session.get('processor')}, {threads} thread{'s' * (threads != 1)}"
    number, precision = len(gpus), config["trainer"].get("precision", "32-true")
    return f"{f'{number} x ' * (number > 1)}{place}{f', {precision}' * (precision != '32-true')}"


def _devices(asked: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    for key, words in WORDS.items():
        value = known.get(key, asked.get(key))
        if value != asked.get(key):
            if value not in words:
                raise ValueError(f"trainer.{key} is {str(value)[:30]!r}")
            yield f"trainer.{key}={value}"


def _limits(asked: Mapping[str, Any], known: Mapping[str, Any], length: Length) -> Iterator[str]:
    if known.get("max_time") is not None:
        yield f"trainer.max_steps={length.steps}"
        return
    for key in ("max_epochs", "max_steps"):
        value = -1 if known.get(key) is None else int(known[key])
        if value != (-1 if asked.get(key) is None else asked[key]):
            yield f"trainer.{key}={value}"


def _curve(run: RunDirectory) -> Curve | None:
    """Return the bound by epoch: of the validation set, else the objective on training batches."""
    rows = read_rows(run.metrics)
    trained = [name for name in (rows[0] if rows else {}) if name.startswith("train/")]
    for metric in (*CURVES, *trained):
        if any(row.get(metric) and row["epoch"] for row in rows):
            return Curve(metric, read_curve(run.metrics, metric))
    return None
