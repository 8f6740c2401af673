"""Trials in batches, through a launcher that runs whole batches, such as `hydra/launcher=basic`."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher

from latentlab.cli.overrides import quoted
from latentlab.errors import Diverged
from latentlab.run.directory import RunDirectory
from latentlab.run.files import check_links
from latentlab.sweeps.jobs import directory
from latentlab.sweeps.jobs.job import Job, Outcome, Status


class Batches:
    """Runs batches of jobs, and reads their outcomes from the run directories.

    Args:
        launcher: Hydra's launcher.
    """

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.launched = 0

    def __call__(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run the jobs that are not settled, and return the outcomes of all jobs."""
        new = [job for job in jobs if directory.settled(job) is None]
        errors = dict(zip(new, self._launch([self._words(job) for job in new]), strict=True)) if new else {}
        return [_read_outcome(job, errors.get(job, "")) for job in jobs]

    def _launch(self, batch: Sequence[Sequence[str]]) -> list[str]:
        first, self.launched = self.launched, self.launched + len(batch)
        try:
            returned = self.launcher.launch(batch, initial_job_idx=first)
        except (Exception, SystemExit) as error:  # one failed job must not drop the others
            return [_line(error)] * len(batch)
        return [_line(each._return_value) if each.status == JobStatus.FAILED else "" for each in returned]

    def _words(self, job: Job) -> list[str]:
        check_links(job.directory.parent, [job.directory])
        (job.directory / directory.RECORD).unlink(missing_ok=True)
        last = directory.checkpoint(job)
        if last is None:
            RunDirectory(job.directory).clear()
        resumed = [quoted("ckpt_path", last)] if last else []
        place = f"{job.directory.parent.name}/{job.directory.name}"
        return [*job.overrides, *resumed, quoted("hydra.sweep.subdir", place)]


class RecordedTask:
    """A task function that writes job.json if its run diverges.

    A launcher reports one error for a whole batch. The record tells which trial diverged.

    Args:
        task: the task function of train.py.
    """

    def __init__(self, task: Callable[[Any], Any]) -> None:
        self.task = task

    def __call__(self, config: Any) -> Any:
        try:
            return self.task(config)
        except SystemExit as end:
            if end.code == Diverged.status:
                self._record(Path(HydraConfig.get().runtime.output_dir), str(end.__context__ or "diverged"))
            raise

    def _record(self, place: Path, reason: str) -> None:
        with suppress(OSError):  # another rank wrote it
            directory.write_record(place, directory.Record(Status.DIVERGED, reason, attempts=1))


def _read_outcome(job: Job, reason: str) -> Outcome:
    if settled := directory.settled(job):
        return settled
    record = directory.read_record(job.directory)
    if record.status == Status.DIVERGED:
        return Outcome(job, Status.DIVERGED, record.reason)
    return Outcome(job, Status.FAILED, reason or "the job wrote no summary.json")


def _line(error: object) -> str:
    return " ".join(str(error).split())[-300:]
