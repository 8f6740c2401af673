"""One attempt at a job: its process, behind a guard, and what became of it."""

import csv
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from io import StringIO
from pathlib import Path

from latentlab.cli.overrides import quoted
from latentlab.sweeps.jobs import directory, guard
from latentlab.sweeps.jobs.job import Job, Outcome, Row, Status, Watch
from latentlab.sweeps.jobs.table import duration

WATCH_SECONDS = 1.0
DIVERGED = re.compile(r"\b(training|iteration) diverged: ")
SIGNALLED, KILL = 128, 9


class Attempt:
    """A running job.

    It goes on from the job's last checkpoint; without one, what an earlier attempt left is cleared away first.

    Args:
        job: the job.
        command: the words before its overrides.
        environment: its environment variables.
        limit: after how many seconds it is stopped; None for never.
        grace: how many seconds it has to end when it is stopped.
        watch: what may prune it.

    Raises:
        UserError: when the directory is another job's, or in use.
    """

    def __init__(
        self,
        job: Job,
        command: Sequence[str],
        environment: Mapping[str, str],
        limit: float | None,
        grace: float,
        watch: Watch | None = None,
    ) -> None:
        self.job = job
        self.watch = watch
        self.started = time.monotonic()
        self._limit = limit
        self._stopped: Status | None = None
        self._rows = Rows(job.directory / "metrics.csv")
        self._due = self.started + WATCH_SECONDS
        # A job of a sweep that was killed ends within its grace.
        lock = directory.lock(job.directory, patience=grace + 5)
        try:
            words = [*command, *job.overrides, *self._prepare()]
            self._guard = self._start(words, environment, grace, lock)
        finally:
            os.close(lock)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    def stop(self, status: Status) -> None:
        """Have the job ended, as `status`; a first reason stands."""
        if self._stopped is None:
            self._stopped = status
            assert self._guard.stdin is not None
            self._guard.stdin.close()

    def kill(self) -> None:
        """End the job at once."""
        self.stop(Status.INTERRUPTED)
        self._guard.terminate()

    def poll(self) -> Outcome | None:
        """The outcome, once the job has ended; looks after its time limit, and its watch, while it has not."""
        status = self._guard.poll()
        if status is not None:
            return self._conclude(status)
        if self._limit is not None and self.seconds > self._limit:
            self.stop(Status.TIMED_OUT)
        self._look()
        return None

    def _prepare(self) -> list[str]:
        directory.check_same(self.job)
        if last := directory.checkpoint(self.job):
            where = [quoted("ckpt_path", last)]
        else:
            directory.clear(self.job.directory)
            where = []
        # This attempt's own tells that it is finished.
        (self.job.directory / "summary.json").unlink(missing_ok=True)
        self.before = directory.read_record(self.job.directory)
        begun = replace(
            self.before,
            status=directory.RUNNING,
            attempts=self.before.attempts + 1,
            overrides=list(self.job.overrides),
        )
        directory.write_record(self.job.directory, begun)
        return [*where, quoted("hydra.run.dir", self.job.directory)]

    def _start(
        self, words: list[str], environment: Mapping[str, str], grace: float, lock: int
    ) -> "subprocess.Popen[bytes]":
        with (self.job.directory / directory.LOG).open("ab") as log:
            log.write(f"-- {datetime.now():%Y-%m-%d %H:%M:%S} {' '.join(words)}\n".encode())
            log.flush()
            self._log_start = log.tell()
            return subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(grace), str(lock), *words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C is for the sweep, which ends its jobs in order
                pass_fds=(lock,),
            )

    def _look(self) -> None:
        now = time.monotonic()
        if self.watch is None or self._stopped is not None or now < self._due:
            return
        self._due = now + WATCH_SECONDS
        rows = self._rows.new()
        if rows and self.watch(self.job, rows):
            self.stop(Status.PRUNED)

    def _conclude(self, code: int) -> Outcome:
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        summary = directory.read_summary(self.job.directory)
        status, reason = self._judge(code, bool(summary))
        seconds = self.before.seconds + self.seconds
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
            return Status.FAILED, "it ended without a summary.json"
        words = self._last_words()
        if words:
            return (Status.DIVERGED if DIVERGED.search(words) else Status.FAILED), words
        return Status.FAILED, _by_status(code)

    def _last_words(self) -> str:
        with (self.job.directory / directory.LOG).open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return next(reversed(errors or raised), "")


class Rows:
    """The rows of a metrics.csv that is being written.

    Args:
        path: the file, which may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = 0

    def new(self) -> list[Row]:
        """The rows since the last call; the file as a whole is replaced when it gets a column, hence by number."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind("\n") + 1]  # the last line may be half written
        rows: list[Row] = list(csv.DictReader(StringIO(whole)))
        seen = self._seen if self._seen <= len(rows) else 0  # a run that goes on drops what it writes again
        self._seen = len(rows)
        return rows[seen:]


_WHY = {
    Status.TIMED_OUT: "stopped after {} (hydra.launcher.timeout_minutes)",
    Status.INTERRUPTED: "stopped with the sweep",
}


def _by_status(code: int) -> str:
    number = -code if code < 0 else code - SIGNALLED
    if number <= 0:
        return f"exit status {code}"
    return f"ended by signal {number}" + (" (perhaps there was no memory left)" if number == KILL else "")
