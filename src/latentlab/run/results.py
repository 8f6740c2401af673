"""summary.json and evaluation.json: the numbers and names that a run or an evaluation reports."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from latentlab.errors import UserError
from latentlab.run.files import read_text, sha256, write_text

log = logging.getLogger(__name__)

LARGEST_FILE = 10_000_000  # bytes. That of a run has 1,000.
LARGEST = 1e100
MOST_EARLIER = 100  # of the results with other settings, so that the file stays readable
WORDS = ("best/metric",)
# The keys of evaluation.json for the settings of an evaluation, and for results with other settings.
SETTINGS, EARLIER = "settings", "earlier"
# The settings for the evaluated checkpoint. A resumed training replaces best.ckpt by another one.
CHECKPOINT, DIGEST = "checkpoint", "checkpoint_sha256"


def read_results(path: Path) -> dict[str, Any]:
    """Return the results in a file, {} if there is no file. A name with a slash has a number, except for WORDS.

    Raises:
        UserError: if the file is damaged.
    """
    results = read_mapping(path)
    earlier = results.get(EARLIER, [])
    if not isinstance(earlier, list) or not all(isinstance(each, dict) for each in earlier):
        raise _damaged(path, f"{EARLIER} is not a list of results")
    for each in (results, *earlier):
        _check(path, each)
    return results


def _check(path: Path, results: Mapping[str, Any]) -> None:
    for name, value in results.items():
        if name in WORDS and not isinstance(value, str):
            raise _damaged(path, f"{name} is not a word")
        if "/" in name and name not in WORDS and not is_real(value):
            raise _damaged(path, f"{name} is not a number")


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, which may come from somebody else. Return {} if there is no file.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        found = json.loads(read_text(path, LARGEST_FILE))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, "it is not a mapping of names to results")
    return found


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path} is damaged ({reason}): delete it and run the command again")


def is_real(value: Any) -> bool:
    """Return True for a number whose square is a number too, for infinity and for NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < LARGEST or value in (math.inf, -math.inf) or value != value


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results, in a new folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(dict(results), indent=2) + "\n")


def write_evaluation(path: Path, results: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write the results of an evaluation. Results with other settings stay in the file, in the list `earlier`.

    Args:
        path: the file.
        results: the results.
        settings: the settings of the evaluation that change its results.

    Returns:
        The contents of the file.
    """
    try:
        known = _evaluations(read_results(path))
    except UserError as error:  # the new results took their time
        log.warning("%s, so it is replaced", error)
        known = []
    others = [each for each in known if each.get(SETTINGS) != settings][:MOST_EARLIER]
    written = {**results, SETTINGS: dict(settings), **({EARLIER: others} if others else {})}
    write_results(path, written)
    return written


def read_evaluation(path: Path, checkpoint: Path) -> dict[str, Any]:
    """Return the latest value of each result of a checkpoint in evaluation.json, {} if there are none.

    The results that the latest evaluation was not asked for are those of earlier evaluations of the same weights.

    Args:
        path: the file.
        checkpoint: the checkpoint, see `evaluations_of`.

    Returns:
        The results. SETTINGS maps the name of each to the settings of its evaluation.

    Raises:
        UserError: if the file is damaged.
    """
    found = evaluations_of(path, checkpoint)
    values: dict[str, Any] = {}
    origins: dict[str, Any] = {}
    for each in reversed(found):
        # Words, such as the name of the model, are those of the latest evaluation.
        names = [name for name in each if "/" in name or each is found[0]]
        values |= {name: each[name] for name in names}
        origins |= dict.fromkeys(names, _settings(each))
    return {**values, SETTINGS: origins} if values else {}


def evaluations_of(path: Path, checkpoint: Path) -> list[dict[str, Any]]:
    """Return the results of the present weights of a checkpoint in evaluation.json, the latest first.

    Results of older versions name no checkpoint or no checksum. They count if the file is newer than the checkpoint.
    If the checkpoint is gone, the results with the latest checksum count.

    Raises:
        UserError: if the file is damaged.
    """
    found = [
        each
        for each in _evaluations(read_results(path))
        if _settings(each).get(CHECKPOINT, checkpoint.name) == checkpoint.name
    ]
    digests = [_settings(each).get(DIGEST) for each in found]
    present = _present(path, checkpoint, digests) if checkpoint.exists() else digests[:1]
    return [each for each, digest in zip(found, digests, strict=True) if digest in present]


def _present(path: Path, checkpoint: Path, digests: Sequence[Any]) -> list[Any]:
    """Return the checksum of the present weights. None stands for that of older results."""
    changed = checkpoint.stat().st_mtime_ns
    if digests[:1] == [None] and path.stat().st_mtime_ns >= changed:
        return [None]
    return [_digest(checkpoint, changed)] if any(digests) else []


@cache
def _digest(checkpoint: Path, changed: int) -> str:
    return sha256(checkpoint)


def _settings(results: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = results.get(SETTINGS)
    return settings if isinstance(settings, dict) else {}


def _evaluations(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all results in evaluation.json, the latest first."""
    latest = {name: value for name, value in results.items() if name != EARLIER}
    return [latest, *results.get(EARLIER, [])] if latest else []


@dataclass(frozen=True)
class Spread:
    r"""A metric over the n seeds of an experiment.

    Attributes:
        n: the number of runs that have the metric.
        mean: their mean, NaN if a value is not finite.
        deviation: the sample standard deviation s, None for one run.
    """

    n: int
    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        n = len(values)
        if not all(map(math.isfinite, values)):
            return cls(n, math.nan, math.nan if n > 1 else None)
        return cls(n, fmean(values), stdev(values) if n > 1 else None)

    @property
    def error(self) -> float | None:
        r"""The standard error $s / \sqrt n$ of the mean."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.n)
