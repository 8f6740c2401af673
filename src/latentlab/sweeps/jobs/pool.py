"""GPUs and threads, handed out to jobs in turn."""

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentlab.errors import UserError
from latentlab.processes.devices import check_one_node, devices_per_node

VISIBLE, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Need:
    """What a job needs.

    Attributes:
        gpus: how many GPUs; 0 on the CPU, None for all that are handed out.
        ranks: how many processes it has on the CPU.
    """

    gpus: int | None = 0
    ranks: int = 1

    @property
    def on_gpu(self) -> bool:
        """Whether it needs GPUs."""
        return self.gpus != 0


def need(trainer: Mapping[str, Any], devices_per_job: int | None) -> Need:
    """What a job needs, by its composed `trainer`.

    Args:
        trainer: the trainer's config; {} for a job without one.
        devices_per_job: goes before `trainer.devices` on GPUs.

    Raises:
        UserError: when it names its GPUs, which are handed out here, wants more than it gets, or several nodes.
    """
    devices = trainer.get("devices", 1)
    if not trainer:
        return Need()
    check_one_node(trainer)
    if not _on_gpu(trainer.get("accelerator")):
        return Need(ranks=devices_per_node(trainer))
    if devices_per_job is not None:
        if str(devices).isdigit() and int(devices) > devices_per_job:
            raise UserError(
                f"trainer.devices={devices} is more than hydra.launcher.devices_per_job={devices_per_job}: "
                "leave the latter out"
            )
        return Need(gpus=devices_per_job)
    if devices in ("auto", "-1", -1):
        return Need(gpus=None)
    if not str(devices).isdigit():
        raise UserError(
            f"trainer.devices={devices}: a sweep hands out GPUs: give their number here, "
            f"and name them in hydra.launcher.devices"
        )
    return Need(gpus=int(devices))


def _on_gpu(accelerator: Any) -> bool:
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and bool(visible_gpus()))


class Pool:
    """The GPUs of a sweep; what is given back is handed out last.

    Args:
        names: their names as in CUDA_VISIBLE_DEVICES; one named twice is handed out to two jobs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.size = len(names)
        self._free = deque(names)

    def has(self, wanted: Need) -> bool:
        """Whether a job's GPUs are free now."""
        return self._number(wanted) <= len(self._free)

    def check(self, wanted: Need, label: str) -> None:
        """Check that a job can ever have its GPUs.

        Raises:
            UserError: when it needs more than there are.
        """
        if wanted.on_gpu and self.size == 0:
            raise UserError(
                f"trainer.accelerator=gpu, of the job {label}: no GPU that this build of torch can use: "
                "trainer=cpu trains without one"
            )
        if wanted.gpus is not None and wanted.gpus > self.size:
            raise UserError(
                f"trainer.devices={wanted.gpus}, of the job {label}: this sweep hands out {self.size} "
                f"GPU{'s' if self.size > 1 else ''} (hydra.launcher.devices, CUDA_VISIBLE_DEVICES)"
            )

    def take(self, wanted: Need) -> tuple[str, ...]:
        """Hand out a job's GPUs."""
        return tuple(self._free.popleft() for _ in range(self._number(wanted)))

    def give_back(self, names: Sequence[str]) -> None:
        """Take a job's GPUs back."""
        self._free.extend(names)

    def _number(self, wanted: Need) -> int:
        return self.size if wanted.gpus is None else wanted.gpus


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # slow to import, and needed only where a job asks for a GPU

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


def threads(wanted: Need, n_jobs: int) -> dict[str, str]:
    """The share of the processor's cores of each process of a job, unless OMP_NUM_THREADS says it."""
    sharing = n_jobs * wanted.ranks
    if sharing == 1 or THREADS in os.environ:
        return {}
    return {THREADS: str(max(1, _cores() // sharing))}


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
