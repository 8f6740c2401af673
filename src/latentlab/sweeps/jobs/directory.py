"""The directories of a sweep and of its jobs, each locked while it is in use.

A job's directory is a run directory with job.json, the job's record, and job.log, its output.
"""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from latentlab.errors import UserError
from latentlab.run.config import read_config, shown
from latentlab.run.directory import RunDirectory
from latentlab.run.files import check_links, read_text, write_text
from latentlab.run.results import read_results
from latentlab.run.resuming import ABSENT, HARMLESS, differences
from latentlab.sweeps.jobs.job import Job, Outcome, Status

log = logging.getLogger(__name__)

RECORD, LOG, JOB_LOCK, SWEEP_LOCK = "job.json", "job.log", ".job.lock", ".lock"
RUNNING = "running"
LARGEST_RECORD = 1_000_000  # bytes
# Files that a sweep writes before its first job starts.
INITIAL = {SWEEP_LOCK, "multirun.yaml"}


@dataclass(frozen=True)
class Record:
    """The contents of job.json, over all attempts.

    Attributes:
        status: the result of the last attempt, or "running" during it and after a kill.
        reason: the cause of a failure.
        seconds: total run time.
        attempts: number of attempts.
        overrides: the job's overrides.
    """

    status: str = ""
    reason: str = ""
    seconds: float = 0.0
    attempts: int = 0
    overrides: list[str] = field(default_factory=list)


def read_record(directory: Path) -> Record:
    """Return the record of a job, or an empty one before its first attempt. A damaged one counts as missing."""
    try:
        return TypeAdapter(Record).validate_json(read_text(directory / RECORD, LARGEST_RECORD))
    except FileNotFoundError:
        return Record()
    except ValueError:
        _pass_over(directory / RECORD)
        return Record()


def write_record(directory: Path, record: Record) -> None:
    """Replace the record of a job."""
    write_text(directory / RECORD, json.dumps(vars(record), indent=2) + "\n")


def read_summary(directory: Path) -> dict[str, Any]:
    """Return the summary of a finished run. A damaged one counts as missing, so that the job runs again."""
    path = RunDirectory(directory).summary
    try:
        return read_results(path)
    except UserError:
        _pass_over(path)
        return {}


def settled(job: Job) -> Outcome | None:
    """Return the outcome of a job that needs no further attempt, else None.

    A run with a summary is finished, unless its process failed after writing it.
    """
    record = read_record(job.directory)
    summary = read_summary(job.directory)
    if summary and record.status in ("", RUNNING, Status.FINISHED):
        return Outcome(job, Status.BEFORE, seconds=record.seconds, summary=summary)
    if record.status == Status.PRUNED:
        return Outcome(job, Status.PRUNED, record.reason, record.seconds)
    return None


def checkpoint(job: Job) -> Path | None:
    """Return the checkpoint from which a job resumes, if it has one that is whole."""
    return RunDirectory(job.directory).resumable_checkpoint()


def check_same(job: Job) -> None:
    """Refuse to resume a run that has another config than the job.

    Raises:
        UserError: for the first key that differs.
    """
    path = RunDirectory(job.directory).config
    if not job.config or not path.exists() or not (settled(job) or checkpoint(job)):
        return
    known = read_config(path, remedy=f"delete {path.parent} to run the job again")
    for key, asked, before in differences(job.config, known, HARMLESS):
        raise UserError(
            f"{job.directory} holds a run with {key}={_shown(before)}, but this job has {_shown(asked)}: "
            "choose another hydra.sweep.dir, or move that directory elsewhere (a copy of it can be trained for longer)"
        )


def lock(directory: Path, patience: float) -> int:
    """Lock a job's directory and return the open file descriptor.

    Processes that inherit the descriptor hold the lock too. The job of a sweep that was killed may still be
    writing its checkpoint.

    Args:
        directory: the job's directory.
        patience: seconds to wait for another job.

    Raises:
        UserError: if another job still runs there, or a file of the job is a link to another place.
    """
    directory.mkdir(parents=True, exist_ok=True)
    check_links(directory.parent, [directory / name for name in (RECORD, LOG, JOB_LOCK)])
    descriptor = os.open(directory / JOB_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience
    while not _locks(descriptor):
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise UserError(
                f"{directory}: a job of another sweep runs there: wait for it, or stop that sweep"
            )
        time.sleep(0.1)
    return descriptor


def make_sweep(folder: Path) -> None:
    """Make the directory of a sweep.

    Raises:
        UserError: if it cannot be made or is not writable, or a file of it is a link to another place.
    """
    check_links(folder, [folder / name for name in INITIAL])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SWEEP_LOCK).touch()
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror} (choose another place with hydra.sweep.dir=DIR)"
        ) from error


@contextmanager
def sweep_lock(folder: Path) -> Iterator[None]:
    """Make the directory of a sweep, and lock it against other commands.

    Raises:
        UserError: if another command runs there, or the directory cannot be made.
    """
    make_sweep(folder)
    held = FileLock(folder / SWEEP_LOCK)
    try:
        held.acquire(blocking=False)
    except Timeout as error:
        raise UserError(f"{folder}: another command runs this sweep: wait for it, or stop it") from error
    try:
        yield
    finally:
        held.release()


@contextmanager
def removed_if_unused(folder: Path) -> Iterator[None]:
    """Remove the directory of a sweep after an error, if no job was started."""
    try:
        yield
    except Exception:
        with suppress(UserError), sweep_lock(folder):
            if {path.name for path in folder.iterdir()} <= INITIAL:
                shutil.rmtree(folder)
        raise


@cache  # one warning for each file
def _pass_over(path: Path) -> None:
    log.warning("%s is damaged and is passed over", path)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _shown(value: Any) -> str:
    return "(no such key)" if value is ABSENT else str(shown(value))
