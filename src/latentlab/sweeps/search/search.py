"""A search for hyperparameters: trials from a sampler, run as the jobs of a sweep, ended early by a pruner."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, final

from optuna.trial import Trial
from pydantic import Field, NonNegativeInt, PositiveInt

from latentlab.errors import UserError
from latentlab.sweeps.jobs.attempt import Rows
from latentlab.sweeps.jobs.job import Job, Outcome, Row, Status, Watch
from latentlab.sweeps.search.space import Space
from latentlab.sweeps.search.study import Direction, Trials

DIRECTIONS: dict[str, Direction] = {"maximise": "maximize", "minimise": "minimize"}


@dataclass(frozen=True)
class SearchSettings:
    """The keys of `hydra.sweeper`.

    Args:
        n_trials: the trials that finish or are pruned, however many workers there are and however often they are
            started; null for all points of a finite space.
        metric: what of summary.json is the score, and of metrics.csv what is watched while a trial trains.
        direction: whether more of it is better.
        seed: what seeds the sampler of each trial, together with the trial's number.
        reseed: false for a sampler whose trials share one seed, such as a low-discrepancy sequence.
        max_failures: the trials that fail, twice each, before the search is given up.
        batch_size: how many trials at a time go to a launcher that runs whole batches, such as a cluster's.
        study: the name of the study in its storage.
        params: what is searched, by key; the command line has the last word.
        sampler, pruner, storage: how each is made.
    """

    n_trials: PositiveInt | None = 20
    metric: Annotated[str, Field(min_length=1)] = "val/elbo"
    direction: Literal["maximise", "minimise"] = "maximise"
    seed: NonNegativeInt = 0
    reseed: bool = True
    max_failures: PositiveInt = 5
    batch_size: PositiveInt = 4
    study: str = "search"
    params: dict[str, Any] | None = None
    sampler: dict[str, Any] = field(default_factory=dict)
    pruner: dict[str, Any] = field(default_factory=dict)
    storage: dict[str, Any] = field(default_factory=dict)

    def description(self, space: Space) -> dict[str, str]:
        """What makes another search of this one, by key."""
        return space.description() | {
            "hydra.sweeper.metric": self.metric,
            "hydra.sweeper.direction": self.direction,
        }

    def count(self, space: Space) -> int:
        """The number of trials.

        Raises:
            UserError: when all points of an infinite space are asked for.
        """
        size = space.size
        if self.n_trials is None and size is None:
            raise UserError(
                "hydra.sweeper.n_trials=null tries every point, but this space has infinitely many: give a number, "
                "or lists and ranges alone"
            )
        return self.n_trials or size or 0


class Runs(Protocol):
    """What a search asks of the runner of jobs."""

    def has_room(self, job: Job) -> bool:
        """Whether another job may start."""

    def start(self, job: Job, watch: Watch | None = None) -> None:
        """Start a job."""

    def wait(self) -> Sequence[Outcome]:
        """The jobs that have ended since the last call, at least one while any runs."""


Prepare = Callable[[Sequence[str], Path], Job]
Launch = Callable[[Sequence[Job]], Sequence[Outcome]]


@final
class Watcher:
    """Reports the epochs of a trial as they come, and says when it is to be pruned.

    Args:
        trial: the trial.
        metric: the column of metrics.csv.
    """

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.epochs: set[int] = set()

    def __call__(self, job: Job, rows: Sequence[Row]) -> bool:
        """Whether the pruner stops the trial after one of the rows, all of which are reported."""
        new = [row for row in rows if row.get(self.metric) and row.get("epoch")]
        return any([self._stops(int(row["epoch"]), float(row[self.metric])) for row in new])

    def _stops(self, epoch: int, value: float) -> bool:
        if epoch in self.epochs:  # trained again after a resume
            return False
        self.epochs.add(epoch)
        self.trial.report(value, epoch)
        return self.trial.should_prune()


class Search(ABC):
    """Runs trials until there are enough of them.

    Args:
        trials: the trials, shared with other workers.
        metric: the score, in summary.json, and by epoch in metrics.csv.
        prepare: what makes a job of overrides and a run directory.
        say: where progress is told.
    """

    def __init__(
        self, trials: Trials, metric: str, prepare: Prepare, say: Callable[[str], None] = print
    ) -> None:
        self.trials = trials
        self.metric = metric
        self.prepare = prepare
        self.say = say
        self.claimed: dict[Path, Watcher] = {}

    @abstractmethod
    def run(self) -> None:
        """Run trials until nothing is left to claim, nor runs here.

        Raises:
            UserError: when a trial finished without a score.
        """

    def claim(self) -> Job | None:
        """The job of another trial, or None when there are enough."""
        while (trial := self.trials.claim()) is not None:
            directory = self.trials.run_directory(trial)
            try:
                job = self.prepare(self.trials.space.overrides(trial.params), directory)
            except UserError as error:  # of options that do not go together, which is no use to try again
                self.trials.give_up(trial, str(error))
                self.say(f"trial {directory.name} is refused: {error}")
            else:
                self.claimed[directory] = Watcher(trial, self.metric)
                return job
        return None

    def conclude(self, outcome: Outcome) -> None:
        """Tell the study what became of a trial; one that was interrupted is left to whoever comes next."""
        watcher = self.claimed.pop(outcome.job.directory)
        trial = watcher.trial
        watcher(outcome.job, Rows(outcome.job.directory / "metrics.csv").new())  # to the last one
        if outcome.status in (Status.FINISHED, Status.BEFORE):
            self._score(trial, outcome)
        elif outcome.status is Status.PRUNED:
            self.trials.prune(trial)
        elif outcome.status is Status.DIVERGED:
            self.trials.prune(trial, outcome.reason)
        elif outcome.status is not Status.INTERRUPTED and self.trials.fail(trial, outcome.reason):
            self.say(f"trial {outcome.job.directory.name} {outcome.status}, and is tried once more")

    def _score(self, trial: Trial, outcome: Outcome) -> None:
        value = outcome.summary.get(self.metric)
        if not isinstance(value, int | float):
            known = ", ".join(name for name in outcome.summary if name.startswith("val/")) or "none of val/"
            raise UserError(
                f"hydra.sweeper.metric={self.metric}: {outcome.job.directory}/summary.json has no such number "
                f"(it has {known})"
            )
        if not math.isfinite(value):
            return self.trials.prune(trial, f"{self.metric} is {value}")
        self.trials.complete(trial, value)
        if self.trials.study.best_trial.number == trial.number:
            count = f"{self.trials.done} of {self.trials.goal} trials are done"
            self.say(f"best so far: {outcome.job.directory.name} with {self.metric} {value:.6g}, {count}")


@final
class WatchedSearch(Search):
    """Trials on this machine: as many at once as the runner has room for, each watched while it trains."""

    def __init__(
        self,
        trials: Trials,
        metric: str,
        prepare: Prepare,
        runner: Runs,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(trials, metric, prepare, say)
        self.runner = runner

    def run(self) -> None:
        """Run trials until nothing is left to claim, nor runs here."""
        job: Job | None = None
        while True:
            while (job is None or self.runner.has_room(job)) and (claimed := self.claim()):
                job = claimed
                self.runner.start(job, self.claimed[job.directory])
            ended = self.runner.wait()
            if not ended:
                return
            for outcome in ended:
                self.conclude(outcome)


@final
class BatchedSearch(Search):
    """Trials by a launcher that runs whole batches: none of them can be watched, nor pruned."""

    def __init__(
        self,
        trials: Trials,
        metric: str,
        prepare: Prepare,
        launch: Launch,
        batch_size: int,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(trials, metric, prepare, say)
        self.launch = launch
        self.batch_size = batch_size

    def run(self) -> None:
        """Run batches until nothing is left to claim."""
        while batch := list(self._batch()):
            for outcome in self.launch(batch):
                self.conclude(outcome)

    def _batch(self) -> Iterator[Job]:
        for _ in range(self.batch_size):
            if (job := self.claim()) is not None:
                yield job


def check_metric(metric: str, config: Mapping[str, Any]) -> None:
    """Refuse a score that is not of the validation set, or a run without one.

    Raises:
        UserError: with the way out.
    """
    if metric.startswith("test/"):
        raise UserError(
            f"hydra.sweeper.metric={metric}: what is chosen by the test set has no honest score left; "
            "choose by val/elbo, and every trial is scored on the test set anyway"
        )
    if metric.startswith("val/") and config.get("data", {}).get("val_size") == 0:
        raise UserError(f"data.val_size=0 leaves no validation set, and with it no {metric} to search by")
