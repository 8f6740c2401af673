"""Progress over the jobs of a sweep: a line for each start and end, and on a terminal a bar with the time left."""

from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from latentlab.sweeps.jobs.job import Job, Outcome, Status
from latentlab.sweeps.jobs.table import duration, metric_of, terminal


class Progress:
    """Tells what starts and ends.

    Args:
        total: how many jobs there are; None where that is not known.
        metric: the entry of a summary to show; None for the usual one.
        console: where to; None for standard output.
    """

    def __init__(
        self, total: int | None = None, metric: str | None = None, console: Console | None = None
    ) -> None:
        self.total = total
        self.metric = metric
        self.console = console or terminal()
        self._done = 0
        self._times: list[float] = []
        columns = (BarColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self._task = self._bar.add_task(self._count(), total=total)

    def start(self) -> None:
        """Show the bar."""
        self._bar.start()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def say(self, line: str) -> None:
        """Show a line, above the bar."""
        self.console.print(line, markup=False, soft_wrap=True)

    def started(self, job: Job, resumed: bool) -> None:
        """Tell that a job starts, anew or from its checkpoint."""
        self.say(f"{'resumed' if resumed else 'started':<11} {job.label}")

    def ended(self, outcome: Outcome, seconds: float, slots: int) -> None:
        """Tell how a job ended, after so many seconds, and how long the rest will take on so many slots."""
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
