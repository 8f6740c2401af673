"""A hyperparameter search: a sampler proposes trials, a runner trains them, a pruner stops bad ones early."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, final

from optuna.trial import Trial
from pydantic import Field, NonNegativeInt, PositiveInt

from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import NewRows, Row
from latentlab.sweeps.jobs.job import Job, Outcome, Status, Watch
from latentlab.sweeps.search.space import Space
from latentlab.sweeps.search.study import Direction, Trials

DIRECTIONS: dict[str, Direction] = {"maximise": "maximize", "minimise": "minimize"}


@dataclass(frozen=True)
class SearchSettings:
    """The keys of `hydra.sweeper`.

    Args:
        n_trials: number of trials to finish or prune, over all workers and calls. None: all points of a finite space.
        metric: the score in summary.json, and the watched column of metrics.csv.
        direction: `maximise` or `minimise`.
        seed: seeds each sampler, together with the number of the trial.
        reseed: False if all trials share one seed, as in a low-discrepancy sequence.
        max_failures: number of failed trials after which the search stops. A trial fails after two attempts.
        batch_size: number of trials in a batch, for launchers that run whole batches.
        study: name of the study in its storage.
        params: the search space by key. The command line overrides it.
        sampler: config of the sampler.
        pruner: config of the pruner.
        storage: config of the storage.
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
        """Return the settings that identify the search, by key."""
        return space.description() | {
            "hydra.sweeper.metric": self.metric,
            "hydra.sweeper.direction": self.direction,
        }

    def count(self, space: Space) -> int:
        """Return the number of trials.

        Raises:
            UserError: if `n_trials` is None and the space is infinite.
        """
        size = space.size
        if self.n_trials is None and size is None:
            raise UserError(
                "hydra.sweeper.n_trials=null tries every point, but this space is infinite: give a number, "
                "or a space of lists and ranges"
            )
        return self.n_trials or size or 0


class JobRunner(Protocol):
    """The part of `jobs.runner.Runner` that a search uses."""

    def has_room(self, job: Job) -> bool: ...

    def start(self, job: Job, watch: Watch | None = None) -> None: ...

    def wait(self) -> Sequence[Outcome]: ...


Prepare = Callable[[Sequence[str], Path], Job]
Launch = Callable[[Sequence[Job]], Sequence[Outcome]]


@final
class Watcher:
    """Reports the epochs of a trial to the pruner.

    Args:
        trial: the trial.
        metric: a column of metrics.csv.
    """

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.epochs: set[int] = set()

    def __call__(self, job: Job, rows: Sequence[Row]) -> bool:
        """Report all rows. Return True if the pruner stops the trial after any of them."""
        new = [row for row in rows if row.get(self.metric) and row.get("epoch")]
        return any([self._stops(int(row["epoch"]), float(row[self.metric])) for row in new])

    def _stops(self, epoch: int, value: float) -> bool:
        if epoch in self.epochs:  # trained again after a resume
            return False
        self.epochs.add(epoch)
        self.trial.report(value, epoch)
        return self.trial.should_prune()


class Search(ABC):
    """Runs trials until there are enough.

    Args:
        trials: the trials, shared with other workers.
        metric: the score in summary.json, and the watched column of metrics.csv.
        prepare: makes a job from overrides and a run directory.
        say: prints progress.
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
        """Run trials until none is left to claim and none runs.

        Raises:
            UserError: if a trial finished without a score.
        """

    def claim(self) -> Job | None:
        """Return the job of another trial, or None if there are enough."""
        while (trial := self.trials.claim()) is not None:
            directory = self.trials.run_directory(trial)
            try:
                job = self.prepare(self.trials.space.overrides(trial.params), directory)
            except UserError as error:  # the options do not fit together, so a second attempt is useless
                self.trials.give_up(trial, str(error))
                self.say(f"trial {directory.name} is refused: {error}")
            else:
                self.claimed[directory] = Watcher(trial, self.metric)
                return job
        return None

    def conclude(self, outcome: Outcome) -> None:
        """Report the outcome of a trial to the study. The next worker runs an interrupted trial again."""
        watcher = self.claimed.pop(outcome.job.directory)
        trial = watcher.trial
        watcher(outcome.job, NewRows(RunDirectory(outcome.job.directory).metrics).read())
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
            known = ", ".join(name for name in outcome.summary if name.startswith("val/")) or "no val/ metric"
            raise UserError(
                f"hydra.sweeper.metric={self.metric}: not a number in "
                f"{RunDirectory(outcome.job.directory).summary} (it has {known})"
            )
        if not math.isfinite(value):
            return self.trials.prune(trial, f"{self.metric} is {value}")
        self.trials.complete(trial, value)
        if self.trials.study.best_trial.number == trial.number:
            count = f"{self.trials.done} of {self.trials.goal} trials are done"
            self.say(f"best so far: {outcome.job.directory.name} with {self.metric} {value:.6g}, {count}")


@final
class WatchedSearch(Search):
    """Trials on this machine, as many as the runner has room for. The pruner watches each one.

    Args:
        trials, metric, prepare, say: as in `Search`.
        runner: starts jobs and waits for them.
    """

    def __init__(
        self,
        trials: Trials,
        metric: str,
        prepare: Prepare,
        runner: JobRunner,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(trials, metric, prepare, say)
        self.runner = runner

    def run(self) -> None:
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
    """Trials in batches, for a launcher that runs whole batches. They cannot be watched, so none is pruned.

    Args:
        trials, metric, prepare, say: as in `Search`.
        launch: runs a batch of jobs.
        batch_size: number of trials in a batch.
    """

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
        while batch := list(self._batch()):
            for outcome in self.launch(batch):
                self.conclude(outcome)

    def _batch(self) -> Iterator[Job]:
        for _ in range(self.batch_size):
            if (job := self.claim()) is not None:
                yield job


def check_metric(metric: str, config: Mapping[str, Any]) -> None:
    """Refuse a score on the test set, or a validation score without a validation set.

    Raises:
        UserError: with the remedy.
    """
    if metric.startswith("test/"):
        raise UserError(
            f"hydra.sweeper.metric={metric}: a model chosen by the test set has no honest test score: "
            "choose by val/elbo; every trial is scored on the test set anyway"
        )
    if metric.startswith("val/") and config.get("data", {}).get("val_size") == 0:
        raise UserError(f"data.val_size=0 leaves no validation set, so there is no {metric} to search by")
