"""summary.json and evaluation.json: the numbers and names that a run or an evaluation reports."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from latentlab.errors import UserError
from latentlab.run.files import read_text, write_text

LARGEST_FILE = 10_000_000  # bytes. That of a run has 1,000.
LARGEST = 1e100
WORDS = ("best/metric",)


def read_results(path: Path) -> dict[str, Any]:
    """Return the results in a file, {} if there is no file. A name with a slash has a number, except for WORDS.

    Raises:
        UserError: if the file is damaged.
    """
    results = read_mapping(path)
    for name, value in results.items():
        if name in WORDS and not isinstance(value, str):
            raise _damaged(path, f"{name} is not a word")
        if "/" in name and name not in WORDS and not is_real(value):
            raise _damaged(path, f"{name} is not a number")
    return results


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
