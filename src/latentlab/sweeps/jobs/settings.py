"""What `hydra.launcher.*` sets."""

from dataclasses import dataclass

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Device = NonNegativeInt | str


@dataclass(frozen=True)
class Settings:
    """How the jobs of a sweep are run.

    Attributes:
        n_jobs: how many run at a time.
        devices: GPUs that are handed out, by number or as CUDA names them; one named twice is shared by two jobs.
            None for all that are visible.
        devices_per_job: how many GPUs a job gets; None for what its `trainer.devices` asks.
        timeout_minutes: how long an attempt at a job may take; None for no limit.
        grace_seconds: how long a job that is stopped has for its checkpoint.
        metric: the entry of summary.json in the table; None for the first of `table.METRICS` that there is.
    """

    n_jobs: PositiveInt = 1
    devices: list[Device] | None = None
    devices_per_job: PositiveInt | None = None
    timeout_minutes: PositiveFloat | None = None
    grace_seconds: NonNegativeFloat = 30.0
    metric: str | None = None
