"""The model zoo: small run directories by name, each with a number that an evaluation of it must reproduce.

A model is a folder ZOO/NAME with config.yaml, checkpoints/best.ckpt, expected.json and the summary.json of its run. The
zoos are the folder in LATENTLAB_ZOO and the folder `models` of this package.
"""

import filecmp
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from math import isfinite, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from latentlab.errors import UserError, did_you_mean
from latentlab.run.directory import RunDirectory
from latentlab.run.files import replaced
from latentlab.run.results import is_real, read_mapping

FOLDER = "LATENTLAB_ZOO"
PREFIX = "zoo:"
NAME = re.compile(r"\w[\w.-]*")
METRIC = re.compile(r"\w+/\w+")
EXAMPLES = Path(__file__).parent / "models"
# The tolerance in standard errors of the Monte Carlo noise, and its least value in nats, for the rounding of devices.
ERRORS, LEAST = 5, 0.01
NUMBERS = ("value", "noise", "samples")


def files(run: RunDirectory) -> tuple[Path, ...]:
    """Return the files that a model needs."""
    return run.config, run.best_checkpoint, run.expected


def extra(run: RunDirectory) -> tuple[Path, ...]:
    """Return the files that a model may have."""
    return (run.summary,)


def models(folder: str | Path | None = None) -> dict[str, RunDirectory]:
    """Return the models by name. One in the user's folder comes before one of the package with the same name.

    Args:
        folder: the user's folder, by default the one in LATENTLAB_ZOO.

    Raises:
        UserError: if there is no such folder.
    """
    own = folder or os.environ.get(FOLDER)
    if own and not Path(own).expanduser().is_dir():
        raise UserError(f"{FOLDER if folder is None else 'zoo'}={own}: there is no such folder")
    places = [EXAMPLES, *([Path(own).expanduser()] if own else [])]
    found = [RunDirectory(path) for place in places for path in sorted(place.iterdir())]
    return {run.path.name: run for run in found if NAME.fullmatch(run.path.name) and run.config.is_file()}


def copied(name: str, key: str, cache: Path, folder: str | Path | None = None) -> RunDirectory:
    """Return a copy of a model in a cache, where an evaluation may write.

    A model that has changed is copied anew, and so are files of the copy that have changed.

    Args:
        name: the name.
        key: the key under which the user gave it.
        cache: the folder of copies.
        folder: the user's folder, see `models`.

    Raises:
        UserError: if there is no such model, or if one of its files is missing.
    """
    known = models(folder)
    if name not in known:
        raise UserError(
            f"{key}={PREFIX}{name}: no such model in the zoo{did_you_mean(name, known)} (there are {', '.join(known)})"
        )
    run = known[name]
    if missing := [path for path in files(run) if not path.is_file()]:
        raise UserError(f"{key}={PREFIX}{name}: {missing[0]} is missing: add the model to the zoo again")
    content = b"".join(path.read_bytes() for path in (*files(run), *extra(run)) if path.is_file())
    copy = RunDirectory(cache / f"{name}_{hashlib.sha256(content).hexdigest()[:12]}")
    if not copy.path.exists():
        _copy(run, copy.path)
    _mend(run, copy)
    return copy


def _copy(run: RunDirectory, place: Path) -> None:
    # The directory appears as a whole.
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place.parent) as draft:
        whole = RunDirectory(Path(draft, "run"))
        whole.checkpoints.mkdir(parents=True)
        for source, target in _pairs(run, whole):
            shutil.copyfile(source, target)
        if not place.exists():
            whole.path.rename(place)


def _mend(run: RunDirectory, copy: RunDirectory) -> None:
    # The results of evaluations in the copy stay.
    for source, target in _pairs(run, copy):
        if not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
            with replaced(target) as draft:
                shutil.copyfile(source, draft)


def _pairs(run: RunDirectory, copy: RunDirectory) -> Iterator[tuple[Path, Path]]:
    for source, target in zip((*files(run), *extra(run)), (*files(copy), *extra(copy)), strict=True):
        if source.is_file():
            yield source, target


def read_expected(run: RunDirectory) -> dict[str, Any]:
    """Return the contents of expected.json, {} for a run that has none.

    `metric` is the name of a bound, `value` its mean over the test set with `samples` draws of the latents, `noise` the
    standard error of the Monte Carlo noise of a mean with one draw, and `command` the command of the training.

    Raises:
        UserError: if the file is damaged.
    """
    expected = read_mapping(run.expected)
    if expected and not _is_whole(expected):
        raise UserError(
            f"{run.expected} is damaged: it needs a metric such as test/elbo, a finite value, noise >= 0 and "
            "samples > 0"
        )
    return expected


def _is_whole(expected: Mapping[str, Any]) -> bool:
    metric: Any = expected.get("metric")
    numbers: list[Any] = [expected.get(name) for name in NUMBERS]
    return (
        isinstance(metric, str)
        and bool(METRIC.fullmatch(metric))
        and all(is_real(number) and isfinite(number) for number in numbers)
        and expected["noise"] >= 0
        and expected["samples"] > 0
    )


def tolerance(expected: Mapping[str, Any], samples: int) -> float:
    """Return the tolerance for an evaluation with a number of draws of the latents."""
    return max(LEAST, ERRORS * expected["noise"] * sqrt(1 / samples + 1 / expected["samples"]))


def verified(run: RunDirectory, results: Mapping[str, Any]) -> str:
    """Return a line about the number that a run must reproduce, "" for a run without one.

    Raises:
        UserError: if the results of an evaluation do not reproduce it.
    """
    expected = read_expected(run)
    if not expected:
        return ""
    metric, value = expected["metric"], expected["value"]
    if metric not in results:
        return f"{metric} was not evaluated, so {run.expected.name} was not checked"
    allowed = tolerance(expected, results["settings"]["samples"])
    wanted = f"{value:.3f} +- {allowed:.2g} of {run.expected.name}"
    if not abs(results[metric] - value) <= allowed:
        raise UserError(
            f"{run.path}: {metric} is {results[metric]:.3f} and does not reproduce {wanted}: its checkpoint, its "
            "config or its data are not those of the zoo"
        )
    return f"{metric} = {results[metric]:.3f} reproduces {wanted}"
