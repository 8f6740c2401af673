"""The end of a sweep: a table of its jobs, mean +- standard error over seeds, and the same in files."""

import csv
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latentlab.sweeps.jobs import directory
from latentlab.sweeps.jobs.job import Outcome

# What is shown of a summary: the first that there is.
METRICS = ("test/elbo", "val/elbo", "train/elbo", "test/reconstruction")
RESULTS = "results.csv"
WIDE = 200


@dataclass(frozen=True)
class Score:
    """A metric over the jobs that differ in their seed alone.

    Attributes:
        label: what they share, as it is shown.
        count: how many they are.
        mean: the metric's mean.
        error: its standard error, s / sqrt(count) with the sample's standard deviation s.
    """

    label: str
    count: int
    mean: float
    error: float


def metric_of(summary: Mapping[str, Any], metric: str | None = None) -> tuple[str, float | None]:
    """The metric of a summary that is shown, by its name, and its value; None when it lacks it."""
    names = METRICS if metric is None else (metric,)
    for name in names:
        if isinstance(summary.get(name), int | float):
            return name, float(summary[name])
    return names[0], None


def common_metric(outcomes: Iterable[Outcome], metric: str | None = None) -> str:
    """One metric for a whole table: as asked, else the first of METRICS that any job has."""
    if metric is not None:
        return metric
    found = {metric_of(outcome.summary)[0] for outcome in outcomes if outcome.summary}
    return next((name for name in METRICS if name in found), METRICS[0])


def scores(outcomes: Iterable[Outcome], metric: str) -> list[Score]:
    """Mean and standard error of a metric for each group of jobs that differ in their seed alone."""
    groups: dict[str, list[float]] = {}
    for outcome in outcomes:
        value = metric_of(outcome.summary, metric)[1]
        if value is not None and outcome.status.succeeded:
            groups.setdefault(_without_seed(outcome.job.label), []).append(value)
    return [
        Score(label or "all", len(values), fmean(values), stdev(values) / sqrt(len(values)))
        for label, values in groups.items()
        if len(values) > 1
    ]


def show(outcomes: Sequence[Outcome], metric: str | None = None, console: Console | None = None) -> None:
    """Print the table of the jobs, that of the seeds, and why jobs failed."""
    console = console or terminal()
    name = common_metric(outcomes, metric)
    table = Table("job", "status")
    table.add_column(name, justify="right")
    table.add_column("time", justify="right")
    for outcome in outcomes:
        value = metric_of(outcome.summary, name)[1]
        shown = "-" if value is None else f"{value:.2f}"
        table.add_row(escape(outcome.job.label), str(outcome.status), shown, duration(outcome.seconds))
    console.print(table)
    if found := scores(outcomes, name):
        console.print(_seeds(found, name))
    for outcome in outcomes:
        if outcome.reason:
            console.print(f"{outcome.job.label}: {outcome.status}: {outcome.reason}", markup=False)


def write(folder: Path) -> Path:
    """Write results.csv: a row for each job in a sweep's directory, those of earlier commands too.

    A row holds the job's directory and overrides, what became of it, and its summary.
    """
    runs = {path.parent for name in (directory.RECORD, "summary.json") for path in folder.glob(f"**/{name}")}
    rows = [_row(path) for path in sorted(runs)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path = folder / RESULTS
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def terminal() -> Console:
    """Standard output; where it is no terminal, as wide as a table likes to be."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=WIDE if wide else None, soft_wrap=True, highlight=False)


def duration(seconds: float) -> str:
    """Seconds in words: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _seeds(found: Sequence[Score], metric: str) -> Table:
    table = Table("over seeds")
    table.add_column("seeds", justify="right")
    table.add_column(f"{metric}, mean +- standard error", justify="right")
    for score in found:
        table.add_row(escape(score.label), str(score.count), f"{score.mean:.2f} +- {score.error:.2f}")
    return table


def _without_seed(label: str) -> str:
    return " ".join(word for word in label.split() if not word.startswith("seed="))


def _row(path: Path) -> dict[str, Any]:
    record, summary = directory.read_record(path), directory.read_summary(path)
    overrides = dict(override.partition("=")[::2] for override in record.overrides)
    known = {
        "directory": path.name,
        "status": record.status,
        "reason": record.reason,
        "seconds": record.seconds,
    }
    return {**known, **overrides, **summary}
