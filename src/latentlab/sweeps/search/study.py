"""The trials of a search, in a storage that several workers share.

Workers claim trials under a file lock in the sweep's directory. Each worker also holds a lock while it lives. The
system releases that lock when the worker dies. Other workers then run its trials again, with the same values and in
the same run directories.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import optuna
from filelock import FileLock, Timeout
from hydra.errors import InstantiationException
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from latentlab.errors import UserError
from latentlab.run.files import check_links
from latentlab.sweeps.search.space import Space

Direction = Literal["minimize", "maximize"]
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
# User attributes of a trial: its run directory, the number of crashes, the reason of its end, and its worker.
DIRECTORY, ATTEMPTS, REASON, WORKER = "directory", "attempts", "reason", "worker"
MAX_ATTEMPTS = 2
# Seconds that a worker waits for another one's write.
PATIENCE = 60


def sqlite(path: str) -> BaseStorage:
    """Open an SQLite file, for workers on one machine."""
    _make_parent(Path(path))
    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": PATIENCE}})


def journal(path: str) -> BaseStorage:
    """Open a journal file, for workers that share a file system."""
    _make_parent(Path(path))
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def server(url: str) -> BaseStorage:
    """Open a database such as postgresql://user@host/name. Its driver must be installed."""
    return RDBStorage(url)


class Trials:
    """The trials of a search. One worker claims and finishes them through this class.

    Args:
        study: the study.
        directory: the sweep's directory.
        space: the searched hyperparameters.
        sampler: returns the sampler for a trial number. Each trial has another seed, because workers with one seed
            would all propose the same values.
        n_trials: number of trials to finish or prune, over all workers and calls.
        max_failures: number of failed trials after which the search stops.
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
        """Return a trial to run, or None if there are enough."""
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
        """Return the trials in any of the states."""
        return self.study.get_trials(deepcopy=False, states=states)

    def run_directory(self, trial: Trial | FrozenTrial) -> Path:
        """Return the run directory of a trial. A repeated trial keeps its directory.

        Raises:
            UserError: if the storage, which may come from somebody else, names another place.
        """
        return self.directory / "trials" / _matched(r"\d{4,9}", trial.user_attrs[DIRECTORY])

    @property
    def done(self) -> int:
        """Number of trials that finished or were pruned."""
        return len(self.of(*DONE))

    @property
    def goal(self) -> int:
        """Number of trials to finish or prune. A finite space may have fewer points than `n_trials`."""
        size = self.space.size
        return self.n_trials if size is None else min(self.n_trials, size - len(self.given_up))

    @property
    def given_up(self) -> list[FrozenTrial]:
        """Trials that failed and are not tried again."""
        return [trial for trial in self.of(TrialState.FAIL) if REASON in trial.user_attrs]

    @property
    def is_complete(self) -> bool:
        return self.done >= self.goal

    @property
    def is_hopeless(self) -> bool:
        return len(self.given_up) >= self.max_failures

    def complete(self, trial: Trial, value: float) -> None:
        """Finish a trial with its score."""
        self._tell(trial.number, values=value, state=TrialState.COMPLETE)

    def prune(self, trial: Trial, reason: str = "") -> None:
        """Finish a trial that was pruned or diverged. It counts as done. The sampler avoids its values.

        Args:
            trial: the trial.
            reason: the error of a diverged trial.
        """
        if reason:
            trial.set_user_attr(REASON, reason)
        self._tell(trial.number, state=TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> bool:
        """Queue a failed trial again, and return True, or give it up after MAX_ATTEMPTS. It does not count as done."""
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
            if owner is not None:
                _matched(r"[0-9a-f]{12}", owner)
            if owner == self.worker or (owner and _is_held(_lock(self.directory, owner))):
                continue
            if set(trial.params) == set(self.space.distributions):
                self._requeue(trial.number, trial.params, trial.user_attrs)
            else:  # its worker died while the sampler proposed it
                self._tell(trial.number, state=TrialState.FAIL)

    def _requeue(self, number: int, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        # In this order, a worker that is killed in between never leaves two trials in one directory.
        self._tell(number, state=TrialState.FAIL)
        self.study.enqueue_trial(dict(params), user_attrs=dict(attributes))

    def _tell(self, number: int, **told: Any) -> None:
        # At the end of a finite space, samplers stop `Study.optimize`, which is not running.
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
    """Open the study of a search, or make it.

    Args:
        storage: opens the storage.
        directory: the sweep's directory.
        name: name of the study.
        description: settings by key that identify the search.
        direction: `maximize` or `minimize`.
        pruner: the pruner.

    Raises:
        UserError: if the storage cannot be read, or holds another search.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # A trial's own files are checked when it starts.
    check_links(directory, [directory / name for name in (".locks", "trials/0000/config.yaml", "figures")])
    make = partial(
        optuna.create_study, study_name=name, direction=direction, pruner=pruner, load_if_exists=True
    )
    with claiming(directory):  # two workers must not make the tables at the same time
        opened = _open(storage)
        study = make(storage=opened)
        _check_same(study, description, directory)
        for key, value in {"description": dict(description), "directory": str(directory.resolve())}.items():
            study.set_user_attr(key, value)
    return study


@contextmanager
def storage_errors() -> Iterator[None]:
    """Report an error of the storage in one line, for example on a full disk."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = _reason(error.__cause__ or error)
        raise UserError(
            f"hydra.sweeper.storage: cannot be written ({reason}): the same command runs the remaining trials"
        ) from error


def claiming(directory: Path) -> FileLock:
    """Return the lock for claiming trials and making the storage."""
    return FileLock(_lock(directory, "claim"))


def _make_parent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    check_links(path.parent, path.parent.glob(f"{path.name}*"))  # and the files that SQLite writes with it


def _open(storage: Callable[[], BaseStorage]) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return storage()
    except (
        *(SQLAlchemyError, InstantiationException),
        *(ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    ) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        raise UserError(
            f"hydra.sweeper.storage: cannot be opened as the storage of a search ({_reason(cause)})"
        ) from error


def _reason(error: object) -> str:
    return " ".join(str(error).split()).partition(" [SQL")[0][:200]


def _check_same(study: optuna.Study, description: Mapping[str, str], directory: Path) -> None:
    known, before = study.user_attrs.get("description"), study.user_attrs.get("directory")
    if known is None and study.get_trials(deepcopy=False):
        raise UserError(
            f"hydra.sweeper.storage: holds another program's study {study.study_name!r}: choose another file"
        )
    for key in [*description, *(known or {})]:
        if known is not None and description.get(key) != known.get(key):
            raise UserError(
                f"{key}: the search in {before} has {_shown(known.get(key))}, this one {_shown(description.get(key))}: "
                "use the same value, or another hydra.sweep.dir (and storage)"
            )
    if before and Path(before) != directory.resolve() and Path(before).exists():
        raise UserError(
            f"hydra.sweeper.storage: holds the search in {before}: use hydra.sweep.dir={before}, or another storage"
        )


def _matched(pattern: str, name: object) -> str:
    if isinstance(name, str) and re.fullmatch(pattern, name):
        return name
    raise UserError(
        f"hydra.sweeper.storage: a trial names the file {name!r}, which no search does: choose another file"
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
