"""The output of a sweep: progress lines, the table at the end, and results.csv."""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from latentlab.cli.screen import say, show_table, terminal
from latentlab.run.directory import RunDirectory
from latentlab.run.files import replaced
from latentlab.run.results import Spread
from latentlab.sweeps.jobs import directory
from latentlab.sweeps.jobs.job import Job, Outcome, Status, duration

# The table shows the first of these that a job has.
METRICS = ("test/elbo", "val/elbo", "train/elbo", "test/reconstruction")
RESULTS = "results.csv"
INDENT = 12 * " "  # below the name of a job
BAR = 40  # characters, fewer on a narrow terminal
COUNT = 30  # characters of the numbers beside the bar


class SweepProgress:
    """Prints a line when a job starts or ends. On a terminal, shows a bar with the time left.

    Args:
        total: number of jobs, None if unknown.
        metric: entry of summary.json to print. None: the first of METRICS that a job has.
        console: the output, by default standard output.
    """

    def __init__(
        self, total: int | None = None, metric: str | None = None, console: Console | None = None
    ) -> None:
        self.total = total
        self.metric = metric
        self.console = console or terminal()
        self._done = 0
        self._times: list[float] = []
        width = max(1, min(BAR, self.console.width - COUNT))
        columns = (BarColumn(bar_width=width), TextColumn("{task.description}"))
        self._bar = Progress(
            *columns,
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(self._count(), total=total)

    def start(self) -> None:
        """Show the bar."""
        self._bar.start()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        say(self.console, line, INDENT)

    def started(self, job: Job, begun: str) -> None:
        """Print that a job has started, resumed or been submitted."""
        self.say(f"{begun:<11} {job.label}")

    def ended(self, outcome: Outcome, seconds: float, slots: int) -> None:
        """Print the outcome of a job and the time left.

        Args:
            outcome: the outcome.
            seconds: run time of the last attempt.
            slots: number of jobs that run at the same time.
        """
        self._done += 1
        if outcome.status != Status.BEFORE:
            self._times.append(seconds)
            self.say("  ".join(filter(None, self._words(outcome, seconds, slots))))
        self._bar.update(self._task, completed=self._done, description=f"{self._count()} {self._left(slots)}")

    def _words(self, outcome: Outcome, seconds: float, slots: int) -> list[str]:
        name, value = metric_of(outcome.summary, self.metric)
        score = "" if value is None else f"{name} {value:.2f}"
        rest = ", ".join(filter(None, [self._count(), self._left(slots)]))
        head = f"{outcome.status:<11} {outcome.job.label}"
        return [head, score, outcome.reason, duration(seconds), f"[{rest}]"]

    def _count(self) -> str:
        return f"{self._done}/{self.total}" if self.total else f"{self._done} jobs"

    def _left(self, slots: int) -> str:
        if not self.total or not self._times or self._done >= self.total:
            return ""
        rest = self.total - self._done
        return f"about {duration(fmean(self._times) * rest / min(slots, rest))} left"


@dataclass(frozen=True)
class Score:
    """A metric over jobs that differ in their seed only.

    Attributes:
        label: the overrides that the jobs share.
        count: number of jobs.
        mean: mean of the metric.
        deviation: sample standard deviation s.
        error: standard error s / sqrt(count).
    """

    label: str
    count: int
    mean: float
    deviation: float
    error: float


def metric_of(summary: Mapping[str, Any], metric: str | None = None) -> tuple[str, float | None]:
    """Return the name and value of `metric`, or of the first of METRICS. The value is None if the run lacks it."""
    names = METRICS if metric is None else (metric,)
    for name in names:
        if isinstance(summary.get(name), int | float):
            return name, float(summary[name])
    return names[0], None


def common_metric(outcomes: Iterable[Outcome], metric: str | None = None) -> str:
    """Return the metric for a whole table: `metric`, or the first of METRICS that any job has."""
    if metric is not None:
        return metric
    found = {metric_of(outcome.summary)[0] for outcome in outcomes if outcome.summary}
    return next((name for name in METRICS if name in found), METRICS[0])


def scores(outcomes: Iterable[Outcome], metric: str) -> list[Score]:
    """Return the spread of a metric for each group of jobs that differ in their seed only."""
    groups: dict[str, list[float]] = {}
    for outcome in outcomes:
        value = metric_of(outcome.summary, metric)[1]
        if value is not None and outcome.status.succeeded:
            groups.setdefault(_without_seed(outcome.job.label), []).append(value)
    spreads = {label: Spread.of(values) for label, values in groups.items()}
    return [
        Score(label or "all", spread.n, spread.mean, spread.deviation, spread.error)
        for label, spread in spreads.items()
        if spread.deviation is not None and spread.error is not None
    ]


def show(outcomes: Sequence[Outcome], metric: str | None = None, console: Console | None = None) -> None:
    """Print the table of the jobs, the means over seeds, and the cause of each failure."""
    console = console or terminal()
    name = common_metric(outcomes, metric)
    rows = []
    for outcome in outcomes:
        value = metric_of(outcome.summary, name)[1]
        shown = "-" if value is None else f"{value:.2f}"
        rows.append([outcome.job.label, str(outcome.status), shown, duration(outcome.seconds)])
    show_table(console, ["job", "status", name, "time"], rows, texts=2)
    if found := scores(outcomes, name):
        show_table(console, [f"{name} over seeds", "n", "mean", "std", "std error"], _cells(found))
    for outcome in outcomes:
        if outcome.reason:
            say(console, f"{outcome.job.label}: {outcome.status}: {outcome.reason}", indent="  ")


def write(folder: Path) -> Path:
    """Write results.csv in the directory of a sweep.

    It has a row for each job, including jobs of earlier commands: directory, overrides, status and summary.
    """
    records = (path.parent for path in folder.rglob(directory.RECORD))
    # W&B has a summary.json too.
    runs = (path.parent for path in folder.rglob(RunDirectory(folder).config.name))
    finished = (path for path in runs if RunDirectory(path).summary.exists())
    rows = [_row(path) for path in sorted({*records, *finished})]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path = folder / RESULTS
    with replaced(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _cells(found: Sequence[Score]) -> list[list[str]]:
    return [
        [each.label, str(each.count), *(f"{value:.2f}" for value in (each.mean, each.deviation, each.error))]
        for each in found
    ]


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
