"""A runner of several jobs at the same time."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self, final

from latentlab.errors import UserError
from latentlab.processes import threads
from latentlab.processes.devices import JOB, unlaunched
from latentlab.sweeps.jobs import directory
from latentlab.sweeps.jobs.attempt import Attempt
from latentlab.sweeps.jobs.fork import PRELOAD, Fork
from latentlab.sweeps.jobs.job import Job, Outcome, Settings, Status, Watch
from latentlab.sweeps.jobs.pool import VISIBLE, Need, Pool, need, visible_gpus
from latentlab.sweeps.jobs.report import SweepProgress
from latentlab.sweeps.jobs.slurm import Slurm
from latentlab.sweeps.jobs.spawn import Spawn, Start

TICK = 0.05
GROUP = "WANDB_RUN_GROUP"
NOT_FORKED = (
    "hydra.launcher.start=fork: only jobs in one process without a GPU and without hydra.job.env_set are forked, "
    "and only on Linux"
)


def job_environment(group: str) -> dict[str, str]:
    """Return the environment variables of the jobs.

    Args:
        group: the W&B group, unless the environment names one.
    """
    return {**({GROUP: group} if group else {}), **unlaunched(os.environ), JOB: "1"}


def forked(settings: Settings, command: Sequence[str], group: str, preload: Sequence[str] = PRELOAD) -> Fork:
    """Return what forks the jobs of a sweep, see `Runner`."""
    environment = {**job_environment(group), **threads.share(settings.n_jobs)}
    return Fork(command, environment, preload)


@final
class Runner:
    """Runs jobs, up to `settings.n_jobs` at the same time. The end of its `with` block stops running jobs.

    Args:
        settings: the settings of the launcher.
        command: the command of a job without overrides.
        group: the W&B group of the runs, unless their config or the environment names one.
        progress: prints the progress.
        fork: forks the jobs. None: one is started for the first job that can be forked.

    Attributes:
        outcomes: the outcomes of the jobs that have ended.
    """

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        group: str = "",
        progress: SweepProgress | None = None,
        fork: Fork | None = None,
    ) -> None:
        self.settings = settings
        self.command = tuple(command)
        self.environment = job_environment(group)
        self.fork = fork or forked(settings, command, group)
        self.progress = progress or SweepProgress(total=None)
        self.outcomes: list[Outcome] = []
        self._attempts: dict[Job, Attempt] = {}
        self._lent: dict[Job, tuple[str, ...]] = {}
        self._ended: list[Outcome] = []
        self._pool: Pool | None = None
        self._said = False
        asked, minutes = settings.slurm, settings.timeout_minutes
        self._slurm = Slurm(asked, minutes, self.environment, self.progress.say) if asked else None

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop_all()
        finally:
            self.progress.close()

    @property
    def running(self) -> tuple[Job, ...]:
        return tuple(self._attempts)

    def check(self, job: Job) -> None:
        """Refuse a job that cannot run.

        Raises:
            UserError: if its directory holds another run, or there are too few devices.
        """
        directory.check_same(job)
        self.needs(job)

    def needs(self, job: Job) -> Need:
        """Return the devices that a job needs.

        Raises:
            UserError: if there are too few devices.
        """
        if self._slurm:
            return Need()  # the devices are those of other machines
        needed = need(job.config.get("trainer") or {}, self.settings.devices_per_job)
        if needed.on_gpu:
            self._gpus().check(needed, job.label)
        return needed

    def run(self, jobs: Sequence[Job], watch: Watch | None = None) -> list[Outcome]:
        """Run jobs and return their outcomes, both in the given order."""
        waiting = list(jobs)
        while waiting or self._attempts or self._ended:
            while waiting and self.has_room(waiting[0]):
                self.start(waiting.pop(0), watch)
            self.wait()
        found = {outcome.job: outcome for outcome in self.outcomes}
        return [found[job] for job in jobs]

    def has_room(self, job: Job) -> bool:
        """Return True if the job can start now."""
        if len(self._attempts) >= self.settings.n_jobs:
            return False
        needed = self.needs(job)
        return not needed.on_gpu or self._gpus().has(needed)

    def start(self, job: Job, watch: Watch | None = None) -> None:
        """Start a job, unless it finished or was pruned before. A job whose directory is in use fails."""
        if known := directory.settled(job):
            return self._note(known)
        minutes = self.settings.timeout_minutes
        limit = None if minutes is None or self._slurm else 60 * minutes  # SLURM keeps the limit itself
        resumed = directory.checkpoint(job) is not None
        start = self._start_of(job)
        try:
            self._attempts[job] = Attempt(job, self.command, start, limit, self.settings.grace_seconds, watch)
        except (UserError, OSError) as error:
            return self._note(Outcome(job, Status.FAILED, str(error)))
        self.progress.started(job, "resumed" if resumed else start.begun)

    def wait(self) -> list[Outcome]:
        """Wait until a job ends. Return all outcomes since the last call, or [] if nothing runs."""
        while self._attempts and not self._ended:
            self._poll()
            time.sleep(TICK)
        self._poll()
        ended, self._ended = self._ended, []
        return ended

    def _start_of(self, job: Job) -> Start:
        if self._slurm:
            return self._slurm
        if self.settings.start != "spawn" and self.needs(job).forks and not job.variables:
            return self.fork
        if self.settings.start == "fork" and not self._said:
            self._said = True
            self.progress.say(NOT_FORKED)
        return Spawn({**self.environment, **self._share(job)})

    def _share(self, job: Job) -> dict[str, str]:
        needed = self.needs(job)
        if not needed.on_gpu:
            return threads.share(self.settings.n_jobs * needed.ranks)
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
        with self._second_interrupt_kills():
            self._drain()

    @contextmanager
    def _second_interrupt_kills(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            for attempt in self._attempts.values():
                attempt.kill()
            self._drain()

    def _drain(self) -> None:
        while self._attempts:
            self._poll()
            time.sleep(TICK)
