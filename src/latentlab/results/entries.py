"""The runs behind the page: each is taken for the rows whose protocol it followed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from inspect import signature
from operator import getitem
from pathlib import Path
from typing import Any

from latentlab.errors import UserError
from latentlab.results.rows import Protocol, default_setting, limit
from latentlab.run.config import read_config, shown
from latentlab.run.directory import RunDirectory
from latentlab.run.environment import SESSIONS
from latentlab.run.metrics import read_curve, read_rows
from latentlab.run.results import EARLIER, SETTINGS, read_mapping, read_results
from latentlab.run.resuming import (
    ABSENT,
    DEVICES,
    FORMER_MONITORS,
    HARMLESS,
    LIMITS,
    MONITORS,
    Difference,
    differences,
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
BEST = "best.ckpt"
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
        return self.ended or self.used == self.full

    @property
    def share(self) -> float:
        return 1.0 if self.whole else self.used / self.full if self.full else math.inf


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
        hours: the hours of the training.
        commits: the commits of the code, one for each that a resumed run had.
        machine: the processor or the GPUs.
        curve: the learning curve, None if no bound was logged.
        devices: the settings of the devices that differ from the row's command.
    """

    protocol: Protocol
    path: Path
    seed: int
    value: float
    error: float | None
    budget: Budget
    data: str
    hours: float | None
    commits: tuple[str, ...]
    machine: str
    curve: Curve | None
    devices: tuple[str, ...]


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
    needs = {"names": dict, "trainer": dict, "callbacks": dict, "seed": int}
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
            return results[metric], results.get(f"{metric}_stderr")
    return None


def _evaluations(protocol: Protocol, run: RunDirectory) -> list[Mapping[str, Any]]:
    if protocol.row.evaluate is None:
        return [read_results(run.summary)]
    latest = read_results(run.evaluation)
    return [each for each in (latest, *latest.get(EARLIER, [])) if _has(each, protocol.settings)]


def _has(results: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    settings = results.get(SETTINGS)
    if not isinstance(settings, dict) or settings.get("checkpoint", BEST) != BEST:
        return False
    return all(settings.get(key, default_setting(key)) == value for key, value in asked.items())


def _missing(protocol: Protocol, run: RunDirectory) -> str:
    row = protocol.row
    remedy = "" if row.evaluate is None else f": run `python evaluate.py run={run.path} {row.evaluate}`"
    return f"{run.path} has no {row.metric} for {row.name}{remedy}"


def _entry(
    protocol: Protocol, run: RunDirectory, config: Mapping[str, Any], value: float, error: float | None
) -> Entry:
    summary, sessions = read_results(run.summary), _sessions(run)
    seconds = summary.get("time/train_seconds")
    return Entry(
        protocol,
        run.path,
        config["seed"],
        value,
        error,
        budget(protocol, run, config, summary),
        _data(config, summary),
        None if seconds is None else seconds / 3600,
        tuple(
            dict.fromkeys(str((each.get("commits") or {}).get("latentlab", "unknown")) for each in sessions)
        ),
        _machine(sessions[-1], config) if sessions else "unknown",
        _curve(run),
        tuple(_devices(protocol.config["trainer"], config["trainer"])),
    )


def budget(
    protocol: Protocol, run: RunDirectory, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> Budget:
    """Return the length of a run beside that of its protocol."""
    full, unit = protocol.limit
    most, _ = limit(config)
    if "train/iterations" in summary:
        unit, used, rule = "iterations", summary["train/iterations"], True
    else:
        used = _steps(run) if unit == "steps" else summary.get("trainer/epochs", most)
        rule = any(
            "EarlyStopping" in str((node or {}).get("_target_")) for node in config["callbacks"].values()
        )
    ended = rule and used < most and config["trainer"].get("max_time") is None
    return Budget(int(used), full, unit, ended)


def _steps(run: RunDirectory) -> int:
    return max((int(row["step"]) for row in read_rows(run.metrics) if row.get("step")), default=0)


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
    for key in ("accelerator", "precision"):
        if known.get(key) != asked.get(key):
            yield f"trainer.{key}={known.get(key)}"


def _curve(run: RunDirectory) -> Curve | None:
    """Return the bound by epoch: of the validation set, else the objective on training batches."""
    rows = read_rows(run.metrics)
    trained = [name for name in (rows[0] if rows else {}) if name.startswith("train/")]
    for metric in (*CURVES, *trained):
        if any(row.get(metric) and row["epoch"] for row in rows):
            return Curve(metric, read_curve(run.metrics, metric))
    return None
