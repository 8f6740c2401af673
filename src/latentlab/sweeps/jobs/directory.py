"""What the directory of a job holds: what a run leaves there, and job.json with what became of the job."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentlab.errors import UserError
from latentlab.run.config import PLACES, leaves, read_config, shown
from latentlab.run.directory import RunDirectory
from latentlab.sweeps.jobs.job import Job, Outcome, Status

RECORD, LOG, LOCK = "job.json", "job.log", ".lock"
RUNNING = "running"
# What a run that is begun anew would mix with the old: the log of a job is kept, and the id of its W&B run.
LEFT = (
    *("config.yaml", "summary.json", "evaluation.json", "metrics.csv", "train.log", "checkpoints", "figures"),
    *("wandb", "tensorboard", ".hydra"),
)
# Keys of a config that leave the result alone: where a run is resumed, recorded, and finds its data.
FREE = ("ckpt_path", "logger", *PLACES)


@dataclass(frozen=True)
class Record:
    """job.json: what became of a job, over all attempts.

    Attributes:
        status: how the last attempt ended; "running" while it lasts, and where it was killed.
        reason: why it did not succeed.
        seconds: what all attempts took.
        attempts: their number.
        overrides: the job's overrides.
    """

    status: str = ""
    reason: str = ""
    seconds: float = 0.0
    attempts: int = 0
    overrides: list[str] = field(default_factory=list)


def read_record(directory: Path) -> Record:
    """The record in a directory; an empty one when there is none."""
    try:
        return Record(**json.loads((directory / RECORD).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return Record()


def write_record(directory: Path, record: Record) -> None:
    """Replace the record in a directory as a whole."""
    draft = directory / f"{RECORD}.part"
    draft.write_text(json.dumps(vars(record), indent=2) + "\n")
    os.replace(draft, directory / RECORD)


def read_summary(directory: Path) -> dict[str, Any]:
    """The summary of a finished run; {} when there is none."""
    try:
        found = json.loads((directory / "summary.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def settled(job: Job) -> Outcome | None:
    """The outcome of a job that needs no (further) attempt: it is finished, or was pruned.

    A run with a summary is finished, unless its process was seen to fail after it was written.
    """
    record = read_record(job.directory)
    summary = read_summary(job.directory)
    if summary and record.status in ("", RUNNING, Status.FINISHED):
        return Outcome(job, Status.BEFORE, seconds=record.seconds, summary=summary)
    if record.status == Status.PRUNED:
        return Outcome(job, Status.PRUNED, record.reason, record.seconds)
    return None


def checkpoint(job: Job) -> Path | None:
    """The checkpoint that a job goes on from."""
    path = job.directory / "checkpoints" / "last.ckpt"
    return path if path.exists() else None


def check_same(job: Job) -> None:
    """Refuse to take the run of another config for this job's.

    Raises:
        UserError: for the first key that differs.
    """
    path = RunDirectory(job.directory).config
    if not job.config or not path.exists() or not (settled(job) or checkpoint(job)):
        return
    known = dict(leaves(read_config(path, remedy=f"delete {path.parent} to run the job anew")))
    asked = dict(leaves(job.config))
    for key in {**asked, **known}:
        if asked.get(key, _ABSENT) != known.get(key, _ABSENT) and not key.startswith(FREE):
            raise UserError(
                f"{job.directory} holds a run with {key}={_shown(known, key)}, where {_shown(asked, key)} is asked "
                "for now: its config has changed; choose another hydra.sweep.dir, or delete that directory"
            )


def clear(directory: Path) -> None:
    """Remove what an attempt without a checkpoint left."""
    for name in LEFT:
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def lock(directory: Path, patience: float) -> int:
    """Lock a job's directory: an open file descriptor, whose copies in other processes hold the lock too.

    A job whose sweep was killed is about to end, and is waited for.

    Args:
        directory: the job's.
        patience: how many seconds to wait.

    Raises:
        UserError: when another job runs there still.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience
    while not _locks(descriptor):
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise UserError(
                f"{directory}: a job of another sweep is running there; wait for it, or stop that sweep"
            )
        time.sleep(0.1)
    return descriptor


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_ABSENT = object()


def _shown(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, _ABSENT)
    return "(no such key)" if value is _ABSENT else str(shown(value))
