"""Runs jobs, some at a time."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self, final

from latentlab.errors import UserError
from latentlab.processes.devices import unlaunched
from latentlab.sweeps.jobs import directory
from latentlab.sweeps.jobs.attempt import Attempt
from latentlab.sweeps.jobs.job import Job, Outcome, Status, Watch
from latentlab.sweeps.jobs.pool import VISIBLE, Need, Pool, need, threads, visible_gpus
from latentlab.sweeps.jobs.progress import Progress
from latentlab.sweeps.jobs.settings import Settings

TICK = 0.05
GROUP = "WANDB_RUN_GROUP"


@final
class Runner:
    """Runs jobs, some at a time; leaving its `with` block stops those that still run.

    Args:
        settings: how many at a time, on what, for how long.
        command: the words of a job's command before its overrides.
        group: the group of the jobs' W&B runs, unless their config or the environment names one.
        progress: where is told what starts and ends.

    Attributes:
        outcomes: what became of the jobs that have ended.
    """

    def __init__(
        self, settings: Settings, command: Sequence[str], group: str = "", progress: Progress | None = None
    ) -> None:
        self.settings = settings
        self.command = tuple(command)
        self.environment = {**({GROUP: group} if group else {}), **unlaunched(os.environ)}
        self.progress = progress or Progress(total=None)
        self.outcomes: list[Outcome] = []
        self._attempts: dict[Job, Attempt] = {}
        self._lent: dict[Job, tuple[str, ...]] = {}
        self._ended: list[Outcome] = []
        self._pool: Pool | None = None

    def __enter__(self) -> Self:
        """Show progress."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what still runs."""
        try:
            self._stop_all()
        finally:
            self.progress.close()

    @property
    def running(self) -> tuple[Job, ...]:
        """The jobs that run now."""
        return tuple(self._attempts)

    def check(self, job: Job) -> None:
        """Check, before it is its turn, that a job can be run.

        Raises:
            UserError: when its directory holds another run, or it needs devices that there are not.
        """
        directory.check_same(job)
        self.needs(job)

    def needs(self, job: Job) -> Need:
        """The devices that a job is given.

        Raises:
            UserError: when they can never be.
        """
        needed = need(job.config.get("trainer") or {}, self.settings.devices_per_job)
        if needed.on_gpu:
            self._gpus().check(needed, job.label)
        return needed

    def run(self, jobs: Sequence[Job], watch: Watch | None = None) -> list[Outcome]:
        """Run jobs in their order; their outcomes, in that order too."""
        waiting = list(jobs)
        while waiting or self._attempts or self._ended:
            while waiting and self.has_room(waiting[0]):
                self.start(waiting.pop(0), watch)
            self.wait()
        found = {outcome.job: outcome for outcome in self.outcomes}
        return [found[job] for job in jobs]

    def has_room(self, job: Job) -> bool:
        """Whether the job can start now: fewer than `n_jobs` run, and its GPUs are free."""
        if len(self._attempts) >= self.settings.n_jobs:
            return False
        needed = self.needs(job)
        return not needed.on_gpu or self._gpus().has(needed)

    def start(self, job: Job, watch: Watch | None = None) -> None:
        """Start a job, or note at once that it is finished, or was pruned, before.

        A job that cannot start, as its directory is in use, fails.
        """
        if known := directory.settled(job):
            return self._note(known)
        minutes = self.settings.timeout_minutes
        limit = None if minutes is None else 60 * minutes
        environment = {**self.environment, **self._share(job)}
        resumed = directory.checkpoint(job) is not None
        try:
            self._attempts[job] = Attempt(
                job, self.command, environment, limit, self.settings.grace_seconds, watch
            )
        except (UserError, OSError) as error:
            return self._note(Outcome(job, Status.FAILED, str(error)))
        self.progress.started(job, resumed)

    def wait(self) -> list[Outcome]:
        """The jobs that have ended since the last call, at least one while any runs."""
        while self._attempts and not self._ended:
            self._poll()
            time.sleep(TICK)
        self._poll()
        ended, self._ended = self._ended, []
        return ended

    def stop(self, job: Job) -> None:
        """Have a running job ended, as interrupted; `wait` tells when it has."""
        if job in self._attempts:
            self._attempts[job].stop(Status.INTERRUPTED)

    def _share(self, job: Job) -> dict[str, str]:
        needed = self.needs(job)
        if not needed.on_gpu:
            return threads(needed, self.settings.n_jobs)
        self._lent[job] = self._gpus().take(needed)
        return {VISIBLE: ",".join(self._lent[job])}

    def _gpus(self) -> Pool:
        if self._pool is None:
            named = self.settings.devices
            self._pool = Pool(visible_gpus() if named is None else [str(name) for name in named])
        return self._pool

    def _poll(self) -> None:
        for attempt in list(self._attempts.values()):
            if outcome := attempt.poll():
                del self._attempts[attempt.job]
                self._note(outcome, attempt.seconds)

    def _note(self, outcome: Outcome, seconds: float = 0.0) -> None:
        lent = self._lent.pop(outcome.job, ())
        if lent:
            self._gpus().give_back(lent)
        self.outcomes.append(outcome)
        self._ended.append(outcome)
        self.progress.ended(outcome, seconds, slots=self.settings.n_jobs)

    def _stop_all(self) -> None:
        for attempt in self._attempts.values():
            attempt.stop(Status.INTERRUPTED)
        with self._impatience():
            while self._attempts:
                self._poll()
                time.sleep(TICK)

    @contextmanager
    def _impatience(self) -> Iterator[None]:
        # A second Ctrl-C, while jobs write their checkpoints, ends them now.
        try:
            yield
        except KeyboardInterrupt:
            for attempt in self._attempts.values():
                attempt.kill()
            while self._attempts:
                self._poll()
                time.sleep(TICK)
