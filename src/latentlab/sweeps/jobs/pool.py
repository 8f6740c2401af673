"""The GPUs that jobs share."""

import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentlab.errors import UserError
from latentlab.processes.devices import check_one_node, devices_per_node

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Need:
    """The devices that a job needs.

    Attributes:
        gpus: number of GPUs, 0 on the CPU. None: all GPUs of the pool.
        ranks: number of processes on the CPU.
    """

    gpus: int | None = 0
    ranks: int = 1

    @property
    def on_gpu(self) -> bool:
        return self.gpus != 0

    @property
    def forks(self) -> bool:
        """True if the job may be forked: it trains in one process without a GPU, on Linux."""
        return self == Need() and sys.platform == "linux"


def need(trainer: Mapping[str, Any], devices_per_job: int | None) -> Need:
    """Return the devices that a job needs.

    Args:
        trainer: the config of the trainer, {} for a job without one.
        devices_per_job: number of GPUs, instead of `trainer.devices`.

    Raises:
        UserError: if the job names its GPUs, needs more than `devices_per_job`, or needs several nodes.
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
                "leave devices_per_job out"
            )
        return Need(gpus=devices_per_job)
    if devices in ("auto", "-1", -1):
        return Need(gpus=None)
    if not str(devices).isdigit():
        raise UserError(
            f"trainer.devices={devices}: a sweep hands out the GPUs: give their number here, "
            "and list them in hydra.launcher.devices"
        )
    return Need(gpus=int(devices))


def _on_gpu(accelerator: Any) -> bool:
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and bool(visible_gpus()))


class Pool:
    """The GPUs of a sweep. The GPU that is free for the longest time is handed out first.

    Args:
        names: names as in CUDA_VISIBLE_DEVICES. A GPU listed twice runs two jobs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.size = len(names)
        self._free = deque(names)

    def has(self, wanted: Need) -> bool:
        """Return True if enough GPUs are free now."""
        return self._number(wanted) <= len(self._free)

    def check(self, wanted: Need, label: str) -> None:
        """Refuse a job that needs more GPUs than the pool has.

        Raises:
            UserError: naming the job and the setting.
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
        return tuple(self._free.popleft() for _ in range(self._number(wanted)))

    def give_back(self, names: Sequence[str]) -> None:
        self._free.extend(names)

    def _number(self, wanted: Need) -> int:
        return self.size if wanted.gpus is None else wanted.gpus


def visible_gpus() -> list[str]:
    """Return the GPUs of this process, named as in CUDA_VISIBLE_DEVICES."""
    import torch  # slow to import, and only needed for jobs on GPUs

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]
