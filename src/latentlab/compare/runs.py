"""The runs of a comparison, grouped by experiment: runs that differ only in their seed belong together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from latentlab.errors import UserError
from latentlab.run.config import CHECKSUM, SOURCE, read_config, shown
from latentlab.run.directory import RunDirectory
from latentlab.run.results import read_results
from latentlab.run.resuming import DEVICES, HARMLESS, built_from, is_among, users_key
from latentlab.sweeps.jobs.directory import RECORD

# Settings that do not make another experiment.
IGNORED = (
    # Another file holds other data. Only images have a checksum.
    *(key for key in HARMLESS if key not in (CHECKSUM, SOURCE)),
    *DEVICES,
    "callbacks.best",
    "names",
    "seed",
    "data.seed",
    "data.source.seed",
    "validate_args",
)

Values = TypeVar("Values", covariant=True)


@dataclass(frozen=True)
class Run(Generic[Values]):
    """One run.

    Attributes:
        names: the run's names: model, data, protocol, prior, objective.
        keys: the config by dotted key, without seeds and places.
        values: the numbers to compare.
    """

    names: Mapping[str, str]
    keys: Mapping[str, Any]
    values: Values


@dataclass(frozen=True)
class Experiment(Generic[Values]):
    """Runs that differ in their seed only, with a label that distinguishes them from other experiments."""

    label: str
    runs: Sequence[Run[Values]]


def collect(
    folders: Iterable[Path], read: Callable[[RunDirectory], Values]
) -> tuple[list[Experiment[Values]], list[str]]:
    """Read all runs at or below some folders, and return the experiments and a line for each run left out.

    Args:
        folders: run directories, or folders with runs below them.
        read: returns the numbers of a run, or raises a UserError with the reason to leave it out.

    Raises:
        UserError: if a folder has no runs, or no run can be read.
    """
    return read_runs(dict.fromkeys(path for folder in folders for path in find_runs(folder)), read)


def read_runs(
    paths: Iterable[Path], read: Callable[[RunDirectory], Values]
) -> tuple[list[Experiment[Values]], list[str]]:
    """Read the runs in some run directories, without those below them, as `collect` does.

    Raises:
        UserError: if no run can be read.
    """
    runs, left_out = [], []
    for path in paths:
        try:
            runs.append(_read(RunDirectory(path), read))
        except UserError as error:
            left_out.append(f"left out {path}: {error}")
    if not runs:
        raise UserError(f"no run can be compared: {'; '.join(left_out)}")
    return _group(runs), left_out


def find_runs(folder: Path) -> list[Path]:
    """Return the run directories at or below a folder, and those of jobs that failed early.

    Raises:
        UserError: if there are none.
    """
    # A job that failed early has a record and no config.
    names = (RunDirectory(folder).config.name, RECORD)
    found = sorted(
        {path.parent for name in names for path in folder.rglob(name) if path.parent.name != ".hydra"}
    )
    if not found:
        raise UserError(f"{folder}: no run here (a run directory holds {names[0]})")
    return found


def incomparable(experiments: Iterable[Experiment[Any]]) -> str:
    """Return a remark if the experiments score different data, "" otherwise."""
    scored = {_scored(run) for each in experiments for run in each.runs}
    if len(scored) == 1:
        return ""
    named = ", ".join(sorted(" ".join(filter(None, words)) for words in scored))
    return f"bounds of different data cannot be compared: {named}"


def _scored(run: Run[Any]) -> tuple[str, ...]:
    # Runs of an older version name Fashion-MNIST like MNIST. Files of the same name may hold other images.
    told = (str(run.keys.get(key) or "")[:12] for key in ("data.dataset", CHECKSUM))
    return (run.names["data"], run.names["protocol"], *told)


def label(runs: Sequence[Run[Any]]) -> list[str]:
    """Name each run by its model and by all settings in which it differs from the others."""
    labels = [run.names["model"] for run in runs]
    for name in ("data", "protocol", "prior", "objective"):
        words = [run.names[name] for run in runs]
        labels = _added(labels, words) if len(set(words)) > 1 else labels
    for key in _common_keys(runs):
        values = [run.keys[key] for run in runs]
        if len(set(map(repr, values))) > 1:
            labels = _added(labels, [f"{key}={shown(value)}" for value in values])
    # Settings that not every run has, and classes, name a run only if nothing else does.
    for key in sorted({key for run in runs for key in run.keys}):
        words = [f"{key.removesuffix('._target_')}={shown(run.keys.get(key, '-'))}" for run in runs]
        labels = _distinguished(labels, words)
    return labels


def _read(run: RunDirectory, read: Callable[[RunDirectory], Values]) -> Run[Values]:
    if not run.summary.exists():
        raise UserError("it has no summary.json, because it has not finished")
    if read_results(run.summary).get("dry_run"):
        raise UserError("it is a dry run of a few batches (trainer.fast_dev_run)")
    config = read_config(run.config, needs={"names": dict})
    keys = {
        users_key(key, config): value
        for key, value in built_from(config).items()
        if not is_among(key, IGNORED)
    }
    protocol = str(keys.get("protocol._target_", "")).rpartition(".")[2]
    known = {name: str(config["names"].get(name, "")) for name in ("model", "data", "prior", "objective")}
    return Run({**known, "protocol": protocol.lower()}, keys, read(run))


def _group(runs: Iterable[Run[Values]]) -> list[Experiment[Values]]:
    groups: dict[str, list[Run[Values]]] = {}
    for run in runs:
        kind = repr([sorted(run.names.items()), sorted(run.keys.items(), key=str)])
        groups.setdefault(kind, []).append(run)
    members = list(groups.values())
    labels = label([group[0] for group in members])
    return [Experiment(name, group) for name, group in zip(labels, members, strict=True)]


def _common_keys(runs: Sequence[Run[Any]]) -> list[str]:
    common = set.intersection(*(set(run.keys) for run in runs))
    return [key for key in sorted(common) if not key.endswith("_")]


def _added(labels: Sequence[str], words: Sequence[str]) -> list[str]:
    return [f"{own}, {word}" for own, word in zip(labels, words, strict=True)]


def _distinguished(labels: Sequence[str], words: Sequence[str]) -> list[str]:
    # Add a word only to equal labels with different words.
    pairs = list(zip(labels, words, strict=True))
    found = {own: {word for same, word in pairs if same == own} for own in labels}
    return [f"{own}, {word}" if len(found[own]) > 1 else own for own, word in pairs]
