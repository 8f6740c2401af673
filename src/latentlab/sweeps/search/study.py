"""The trials of a search in a storage that several workers share.

Trials are claimed under a file lock in the sweep's directory, which all workers share, so that two of them never start
one too many. Each worker holds a lock of its own for as long as it lives, which the system frees when it dies: what it
was running then is claimed again by others, with the same values and in the same run directory.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import optuna
from filelock import FileLock, Timeout
from hydra.errors import InstantiationException
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from latentlab.errors import UserError
from latentlab.sweeps.search.space import Space

Direction = Literal["minimize", "maximize"]
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
# What is kept with a trial: its run directory, the runs that crashed before, why it was given up, and its worker.
DIRECTORY, ATTEMPTS, REASON, WORKER = "directory", "attempts", "reason", "worker"
MAX_ATTEMPTS = 2


class Trials:
    """The trials of one search, as one of its workers sees and claims them.

    Args:
        study: the study that holds them.
        directory: the sweep's directory.
        space: what is searched.
        sampler: the sampler for the trial of a given number, seeded by it: workers that shared one seed would all
            propose the same.
        n_trials: the number of trials that finish, or are pruned, by all workers and in all calls together.
        max_failures: the number of trials that are given up before the search is.
    """

    def __init__(
        self,
        study: optuna.Study,
        directory: Path,
        space: Space,
        sampler: Callable[[int], BaseSampler],
        n_trials: int,
        max_failures: int,
    ) -> None:
        self.study = study
        self.directory = directory
        self.space = space
        self.sampler = sampler
        self.n_trials = n_trials
        self.max_failures = max_failures
        self.worker = uuid4().hex[:12]
        self._alive = FileLock(_lock(directory, self.worker))
        self._alive.acquire()

    def claim(self) -> Trial | None:
        """A trial to run, or None when the others suffice."""
        with claiming(self.directory):
            self._requeue_lost()
            if len(self.of(*DONE, TrialState.RUNNING)) >= self.goal or self.is_hopeless:
                return None
            self.study.sampler = self.sampler(len(self.study.get_trials(deepcopy=False)))
            trial = self.study.ask(dict(self.space.distributions))
            if DIRECTORY not in trial.user_attrs:
                trial.set_user_attr(DIRECTORY, f"{trial.number:04d}")
            trial.set_user_attr(WORKER, self.worker)
        return trial

    def of(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials that are in one of the states."""
        return self.study.get_trials(deepcopy=False, states=states)

    def run_directory(self, trial: Trial | FrozenTrial) -> Path:
        """The run directory of a trial, which one that takes its place goes on in."""
        return self.directory / "trials" / trial.user_attrs[DIRECTORY]

    @property
    def done(self) -> int:
        """How many trials finished or were pruned."""
        return len(self.of(*DONE))

    @property
    def goal(self) -> int:
        """How many trials are to finish: as asked, or what a finite space has left."""
        size = self.space.size
        return self.n_trials if size is None else min(self.n_trials, size - len(self.given_up))

    @property
    def given_up(self) -> list[FrozenTrial]:
        """The trials that failed for good; one that was cut off or is tried again has a successor."""
        return [trial for trial in self.of(TrialState.FAIL) if REASON in trial.user_attrs]

    @property
    def is_complete(self) -> bool:
        """Whether all trials are done."""
        return self.done >= self.goal

    @property
    def is_hopeless(self) -> bool:
        """Whether so many trials failed that the search is given up."""
        return len(self.given_up) >= self.max_failures

    def complete(self, trial: Trial, value: float) -> None:
        """Finish a trial with its score."""
        self._tell(trial.number, values=value, state=TrialState.COMPLETE)

    def prune(self, trial: Trial, reason: str = "") -> None:
        """Finish a trial that was stopped early, or whose bound diverged: it counts, and is kept away from."""
        if reason:
            trial.set_user_attr(REASON, reason)
        self._tell(trial.number, state=TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> bool:
        """Have a trial that crashed tried once more, and say whether it is; it counts in neither case."""
        attempts = trial.user_attrs.get(ATTEMPTS, 0) + 1
        if attempts < MAX_ATTEMPTS:
            with claiming(self.directory):
                self._requeue(trial.number, trial.params, {**trial.user_attrs, ATTEMPTS: attempts})
        else:
            self.give_up(trial, reason)
        return attempts < MAX_ATTEMPTS

    def give_up(self, trial: Trial, reason: str) -> None:
        """Fail a trial for good."""
        trial.set_user_attr(REASON, reason)
        self._tell(trial.number, state=TrialState.FAIL)

    def _requeue_lost(self) -> None:
        for trial in self.of(TrialState.RUNNING):
            owner = trial.user_attrs.get(WORKER)
            if owner == self.worker or (owner and _is_held(_lock(self.directory, owner))):
                continue
            if set(trial.params) == set(self.space.distributions):
                self._requeue(trial.number, trial.params, trial.user_attrs)
            else:  # its worker died while it was being proposed
                self._tell(trial.number, state=TrialState.FAIL)

    def _requeue(self, number: int, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        # In this order: a worker that is killed between leaves a trial that is drawn anew, and not two in one place.
        self._tell(number, state=TrialState.FAIL)
        self.study.enqueue_trial(dict(params), user_attrs=dict(attributes))

    def _tell(self, number: int, **told: Any) -> None:
        # Samplers of a finite space want to stop `Study.optimize`, which is not what runs, once they are through it;
        # the trial is told all the same.
        with suppress(RuntimeError):
            self.study.tell(number, **told)


def open_study(
    storage: Callable[[], BaseStorage],
    directory: Path,
    name: str,
    description: Mapping[str, str],
    direction: Direction,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """The study of a search, a new one or the one that a storage holds.

    Args:
        storage: what opens the storage.
        directory: the sweep's directory.
        name: the study's name.
        description: what makes another search of this one, by key.
        direction: `maximize` or `minimize`.
        pruner: what ends trials early.

    Raises:
        UserError: when the storage cannot be read, or holds another search.
    """
    directory.mkdir(parents=True, exist_ok=True)
    make = partial(
        optuna.create_study, study_name=name, direction=direction, pruner=pruner, load_if_exists=True
    )
    with claiming(directory):  # two workers that both make the tables stumble over each other
        opened = _open(storage)
        study = make(storage=opened)
        _check_same(study, description, directory)
        for key, value in {"description": dict(description), "directory": str(directory.resolve())}.items():
            study.set_user_attr(key, value)
    return study


def claiming(directory: Path) -> FileLock:
    """The lock under which trials are claimed and a storage is made."""
    return FileLock(_lock(directory, "claim"))


def _open(storage: Callable[[], BaseStorage]) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return storage()
    except (
        *(SQLAlchemyError, InstantiationException),
        *(ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    ) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        reason = " ".join(str(cause).split()).partition(" [SQL")[0][:200]
        raise UserError(
            f"hydra.sweeper.storage: this cannot be opened as the storage of a search ({reason})"
        ) from error


def _check_same(study: optuna.Study, description: Mapping[str, str], directory: Path) -> None:
    known, before = study.user_attrs.get("description"), study.user_attrs.get("directory")
    if known is None and study.get_trials(deepcopy=False):
        raise UserError(
            f"hydra.sweeper.storage: this holds another program's study {study.study_name!r}: choose another file"
        )
    for key in [*description, *(known or {})]:
        if known is not None and description.get(key) != known.get(key):
            raise UserError(
                f"{key}: the search in {before} has {_shown(known.get(key))}, this one {_shown(description.get(key))}: "
                "give what it had, or another hydra.sweep.dir (and storage)"
            )
    if before and Path(before) != directory.resolve() and Path(before).exists():
        raise UserError(
            f"hydra.sweeper.storage: this holds the search in {before}; its workers share hydra.sweep.dir={before}"
        )


def _shown(text: str | None) -> str:
    return "nothing" if text is None else text


def _lock(directory: Path, name: str) -> Path:
    folder = directory / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.lock"


def _is_held(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
