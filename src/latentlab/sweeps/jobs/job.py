"""A job of a sweep, its outcome, and the settings of the launcher."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from latentlab.run.metrics import Row
from latentlab.sweeps.jobs.slurm import Request

GPU = NonNegativeInt | str


@dataclass(frozen=True)
class Settings:
    """The keys of `hydra.launcher`.

    Attributes:
        n_jobs: number of jobs that run at the same time.
        devices: GPUs to share out, by index or CUDA name. A GPU listed twice runs two jobs. None: all visible GPUs.
        devices_per_job: GPUs for each job. None: the job's `trainer.devices`.
        timeout_minutes: time limit of one attempt at a job. None: no limit.
        grace_seconds: time for a stopped job to write its checkpoint.
        metric: entry of summary.json in the table. None: the first of `report.METRICS` that a job has.
        start: `fork`, `spawn` or `slurm`, see the modules of these names. None: `fork` for each job that can be
            forked, but `spawn` for a single one.
        slurm: the request of each job with `slurm`.
    """

    n_jobs: PositiveInt = 1
    devices: list[GPU] | None = None
    devices_per_job: PositiveInt | None = None
    timeout_minutes: PositiveFloat | None = None
    grace_seconds: NonNegativeFloat = 30.0
    metric: str | None = None
    start: Literal["fork", "spawn", "slurm"] | None = None
    slurm: Request | None = None


class Status(StrEnum):
    """The result of a job. job.json stores these words."""

    FINISHED = "finished"
    BEFORE = "finished before"
    PRUNED = "pruned"
    FAILED = "failed"
    DIVERGED = "diverged"
    TIMED_OUT = "timed out"
    INTERRUPTED = "interrupted"

    @property
    def succeeded(self) -> bool:
        return self in (Status.FINISHED, Status.BEFORE, Status.PRUNED)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        directory: the run directory.
        overrides: the command-line overrides, without `hydra.run.dir` and `ckpt_path`.
        label: the overrides that distinguish the job in the table.
        config: the resolved config. A run with another config in `directory` is refused.
        variables: `hydra.job.env_set`. Libraries read some variables when they are imported.
    """

    directory: Path
    overrides: tuple[str, ...]
    label: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        job: the job.
        status: its status.
        reason: the cause of a failure in one line. Empty after a success.
        seconds: run time over all attempts.
        summary: the contents of summary.json. Empty if the job has not finished.
    """

    job: Job
    status: Status
    reason: str = ""
    seconds: float = 0.0
    summary: Mapping[str, Any] = field(default_factory=dict)


# Called once a second with the new rows of metrics.csv. A return value of True prunes the job.
Watch = Callable[[Job, Sequence[Row]], bool]


def duration(seconds: float) -> str:
    """Format seconds as `8 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
