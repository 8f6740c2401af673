"""One attempt at a job: its process behind a guard, and its outcome."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from latentlab.cli.overrides import quoted
from latentlab.errors import Diverged
from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import NewRows
from latentlab.sweeps.jobs import directory
from latentlab.sweeps.jobs.job import Job, Outcome, Status, Watch, duration
from latentlab.sweeps.jobs.spawn import Guarded, Start

WATCH_SECONDS = 1.0
SIGNALLED, KILL = 128, 9


class Attempt:
    """A running job.

    It resumes from the job's last checkpoint that is whole. Without one, the files of an earlier attempt are removed
    first.

    Args:
        job: the job.
        command: the command without overrides.
        start: starts its process.
        limit: time limit in seconds. None: no limit.
        grace: seconds between SIGTERM and SIGKILL when the job is stopped.
        watch: decides from the new rows of metrics.csv if the job is pruned.

    Raises:
        UserError: if the directory holds another run or is in use.
    """

    def __init__(
        self,
        job: Job,
        command: Sequence[str],
        start: Start,
        limit: float | None,
        grace: float,
        watch: Watch | None = None,
    ) -> None:
        self.job = job
        self.watch = watch
        self._limit = limit
        self._due = 0.0
        self._stopped: Status | None = None
        self._log_start = 0
        self._rows = NewRows(RunDirectory(job.directory).metrics)
        # The job of a sweep that was killed ends within its grace.
        lock = directory.lock(job.directory, patience=grace + 5)
        try:
            self._guard = start.rejoin(job.directory, lock, grace) or self._begin(command, start, grace, lock)
            # The first forked job waits for imports. They are not its time, and an interrupt leaves no record.
            self.started = time.monotonic()
            self._seconds_before = self._record_start()
        finally:
            os.close(lock)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def stop(self, status: Status) -> None:
        """Stop the job with `status`. Only the first call counts."""
        if self._stopped is None:
            self._stopped = status
            self._guard.stop()

    def kill(self) -> None:
        """Stop the job without grace."""
        self.stop(Status.INTERRUPTED)
        self._guard.kill()

    def poll(self) -> Outcome | None:
        """Return the outcome if the job has ended. Otherwise enforce the time limit and call `watch`."""
        status = self._guard.poll()
        if status is not None:
            return self._conclude(status)
        if self._limit is not None and self.seconds > self._limit:
            self.stop(Status.TIMED_OUT)
        self._look()
        return None

    def _begin(self, command: Sequence[str], start: Start, grace: float, lock: int) -> Guarded:
        with RunDirectory(self.job.directory).lock():  # a single run may use the directory too
            resumed = self._prepare()
        words = [*command, *self.job.overrides, *resumed, quoted("hydra.run.dir", self.job.directory)]
        self._log_start = self._write_title(words)
        return self._start(start, words, grace, lock)

    def _prepare(self) -> list[str]:
        directory.check_same(self.job)
        if last := directory.checkpoint(self.job):
            resumed = [quoted("ckpt_path", last)]
        else:
            RunDirectory(self.job.directory).clear()
            resumed = []
        # Only a summary of this attempt means that the job is finished.
        RunDirectory(self.job.directory).summary.unlink(missing_ok=True)
        return resumed

    def _record_start(self) -> float:
        # Returns the seconds of earlier attempts.
        before = directory.read_record(self.job.directory)
        attempts, overrides = before.attempts + 1, list(self.job.overrides)
        begun = replace(before, status=directory.RUNNING, attempts=attempts, overrides=overrides)
        directory.write_record(self.job.directory, begun)
        return before.seconds

    def _write_title(self, words: list[str]) -> int:
        # Returns the position in the log where the job's output starts.
        with (self.job.directory / directory.LOG).open("ab") as log:
            log.write(f"-- {datetime.now():%Y-%m-%d %H:%M:%S} {' '.join(words)}\n".encode())
            return log.tell()

    def _start(self, start: Start, words: list[str], grace: float, lock: int) -> Guarded:
        with (self.job.directory / directory.LOG).open("ab") as log:
            return start(words, log, lock, grace)

    def _look(self) -> None:
        now = time.monotonic()
        if self.watch is None or self._stopped is not None or now < self._due:
            return
        self._due = now + WATCH_SECONDS
        rows = self._rows.read()
        if rows and self.watch(self.job, rows):
            self.stop(Status.PRUNED)

    def _conclude(self, code: int) -> Outcome:
        self._guard.close()
        summary = directory.read_summary(self.job.directory)
        status, reason = self._judge(code, bool(summary))
        seconds = self._seconds_before + self.seconds
        record = directory.read_record(self.job.directory)
        directory.write_record(
            self.job.directory, replace(record, status=status, reason=reason, seconds=round(seconds, 1))
        )
        return Outcome(self.job, status, reason, seconds, summary)

    def _judge(self, code: int, has_summary: bool) -> tuple[Status, str]:
        if code == 0 and has_summary:
            return Status.FINISHED, ""
        if self._stopped is not None:
            return self._stopped, _WHY.get(self._stopped, "").format(duration(self._limit or 0))
        if code == 0:
            return Status.FAILED, "the job wrote no summary.json"
        status = Status.DIVERGED if code == Diverged.status else Status.FAILED
        return status, self._error_line() or _by_status(code)

    def _error_line(self) -> str:
        with (self.job.directory / directory.LOG).open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return next(reversed(errors or raised), "")


_WHY = {
    Status.TIMED_OUT: "stopped after {} (hydra.launcher.timeout_minutes)",
    Status.INTERRUPTED: "stopped with the sweep",
}


def _by_status(code: int) -> str:
    number = -code if code < 0 else code - SIGNALLED
    if number <= 0:
        return f"exit status {code}"
    return f"ended by signal {number}" + (" (perhaps out of memory)" if number == KILL else "")
