"""What a sweep is made of: jobs, and what became of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

Row = Mapping[str, str]


class Status(StrEnum):
    """What became of a job."""

    FINISHED = "finished"
    BEFORE = "finished before"
    PRUNED = "pruned"
    FAILED = "failed"
    DIVERGED = "diverged"
    TIMED_OUT = "timed out"
    INTERRUPTED = "interrupted"

    @property
    def succeeded(self) -> bool:
        """Whether the job did what it was to do, now or in an earlier call; a pruned one did."""
        return self in (Status.FINISHED, Status.BEFORE, Status.PRUNED)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        directory: its run directory.
        overrides: its plain overrides, as on the command line, without `hydra.run.dir` and `ckpt_path`.
        label: the overrides that tell it from the other jobs, as they are shown.
        config: its resolved config; a run of another one in `directory` is refused.
    """

    directory: Path
    overrides: tuple[str, ...]
    label: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: the job.
        status: how it ended.
        reason: why it did not succeed, one line; empty otherwise.
        seconds: what it took, over all attempts.
        summary: its summary.json; empty when it wrote none.
    """

    job: Job
    status: Status
    reason: str = ""
    seconds: float = 0.0
    summary: Mapping[str, Any] = field(default_factory=dict)


# Called about once a second with the rows that metrics.csv has got since the last call (all of them, at first); True
# prunes the job.
Watch = Callable[[Job, Sequence[Row]], bool]
