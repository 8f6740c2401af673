"""Several devices: which process of a job this is, how many it needs, and what is refused before any is started.

Imports no torch on the way to a single device: the command line answers at once.
"""

import logging
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from latentlab.errors import UserError

# Set for the processes that `processes.ranks` starts: the process that looks after them, and RANK/WORLD (Lightning
# deletes WORLD_SIZE after training).
PARENT, RANK = "LATENTLAB_PARENT", "LATENTLAB_RANK"
ALL = ("auto", "-1", -1)


@dataclass(frozen=True)
class Place:
    """This process among those of a job.

    Attributes:
        launcher: what started them.
        rank: its number, from 0.
        world: how many they are.
    """

    launcher: str
    rank: int
    world: int


def place() -> Place | None:
    """The place of this process, by what a launcher has left in the environment; None where none has started it."""
    env = os.environ
    if RANK in env:
        return Place("train.py", *map(int, env[RANK].split("/")))
    if "TORCHELASTIC_RUN_ID" in env:
        return Place("torchrun", int(env["RANK"]), int(env["WORLD_SIZE"]))
    # A batch script has SLURM_NTASKS too, but is no step of its job: it is not one of the tasks.
    if "SLURM_STEP_ID" in env and int(env.get("SLURM_NTASKS", 1)) > 1:
        return Place("srun", int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]))
    return None


def has_peers(trainer: Mapping[str, Any]) -> bool:
    """Whether a launcher has started this process as one of those that train together.

    The tasks of srun need not: with one device each, they are experiments of their own, such as agents of a sweep.
    """
    here = place()
    return here is not None and here.world > 1 and (here.launcher != "srun" or total_devices(trainer) > 1)


def rank(trainer: Mapping[str, Any]) -> int:
    """The number of this process among those that train together."""
    here = place()
    return here.rank if here is not None and has_peers(trainer) else 0


def ranks_to_start(trainer: Mapping[str, Any], in_sweep: bool) -> int:
    """How many processes this one has to start for its job; 0 where it trains itself.

    Args:
        trainer: the trainer's config.
        in_sweep: whether this very process runs the jobs of a sweep.

    Raises:
        UserError: for devices that there are not, that a launcher has not provided for, or in such a sweep.
    """
    total, here = total_devices(trainer), place()
    wanted = f"trainer.devices={trainer.get('devices')}"
    if in_sweep and total > 1:
        raise UserError(
            f"{wanted}: with several devices, each job of a sweep needs a process of its own: "
            "leave hydra/launcher at its default, which starts one for each"
        )
    if here is not None and here.launcher == "srun" and total > 1:
        _check_slurm()
    if here is not None and (here.launcher != "srun" or total > 1):
        if here.world != total:
            raise UserError(
                f"{here.launcher} has started {here.world} processes, but {wanted} with "
                f"trainer.num_nodes={trainer.get('num_nodes', 1)} is {total}: one process for each device is needed"
            )
        return 0
    check_one_node(trainer)
    return total if total > 1 else 0


def check_one_node(trainer: Mapping[str, Any]) -> None:
    """Check that a job that no launcher has started needs this machine alone.

    Raises:
        UserError: when it needs several.
    """
    if trainer.get("num_nodes", 1) > 1:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: several nodes are started with srun or torchrun, "
            "which know of one another (docs/devices.md has the commands)"
        )


def check_started_once(many_workers: bool) -> None:
    """Check that this process, that of a sweep, is not one of several that a launcher has started.

    Args:
        many_workers: whether the sweep is one that several workers share, as tasks of srun.

    Raises:
        UserError: when each of them would run the whole sweep.
    """
    here = place()
    if here is not None and here.world > 1 and not (many_workers and here.launcher == "srun"):
        raise UserError(
            f"{here.launcher} has started {here.world} processes, each of which would run the whole sweep: give "
            "`python train.py -m ...` by itself, which starts the processes of its jobs"
        )


def unlaunched(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what makes tasks of SLURM's of the processes that a task or a batch script starts."""
    return {name: value for name, value in environment.items() if not name.startswith("SLURM_")}


def total_devices(trainer: Mapping[str, Any]) -> int:
    """How many devices a trainer has, over all nodes.

    Raises:
        UserError: when there are not so many, or none is asked for.
    """
    return devices_per_node(trainer) * int(trainer.get("num_nodes", 1))


def devices_per_node(trainer: Mapping[str, Any]) -> int:
    """How many devices a trainer has on one node.

    Raises:
        UserError: when there are not so many, or none is asked for.
    """
    asked = trainer.get("devices", "auto")
    number = _number(asked)
    if number == 0:
        raise UserError(f"trainer.devices={asked}: at least one device is needed")
    if number == 1 or not _on_gpu(trainer.get("accelerator", "auto")):
        return number or 1
    there = gpus()
    if there == 0:
        raise UserError(
            f"trainer.devices={asked}: no GPU that this build of torch can use: trainer=ddp_cpu trains in several "
            "processes on the CPU, trainer=cpu in one"
        )
    if number is not None and number > there:
        raise UserError(f"trainer.devices={asked}: torch finds {there} GPU{'s' if there > 1 else ''} here")
    return number or there


def gpus() -> int:
    """How many GPUs torch can use."""
    import torch

    return torch.cuda.device_count() or int(torch.backends.mps.is_available())


def shares(batch: int, devices: int, accumulated: int) -> str:
    """What a step of the optimiser is made of, in words; empty for one batch on one device.

    Args:
        batch: the examples of a batch, over all devices.
        devices: how many devices share it.
        accumulated: the batches of a step.
    """
    least, more = divmod(batch, devices)
    each = f"{least} or {least + 1}" if more else f"{least}"
    parts = [f"batches of {batch}: {each} on each of {devices} devices"] if devices > 1 else []
    if accumulated > 1:
        parts.append(f"{accumulated} batches of {batch} accumulated: {accumulated * batch} examples a step")
    return "; ".join(parts)


def hush() -> None:
    """Leave all there is to say to the first rank; errors stay."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def common_start(now: str) -> str:
    """A name of this start of a job that all its processes agree on, on any number of nodes.

    Args:
        now: the time; the first rank's is everybody's, where the launcher offers a way to tell.
    """
    here, env = place(), os.environ
    assert here is not None
    if here.launcher == "srun":
        # The same when the job is queued again, and goes on there.
        return f"slurm-{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}"
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UserError(
            "hydra.run.dir=DIR is needed, for this torchrun gives its processes no way to agree on one"
        )
    from torch.distributed import TCPStore

    # The store of torchrun itself, which lives before the processes have found one another.
    store = TCPStore(
        env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=120)
    )
    key = f"latentlab/start/{env.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if here.rank == 0:
        store.set(key, now)
    return store.get(key).decode()


def lost_a_peer(error: BaseException) -> bool:
    """Whether an error says that another process of the job is gone, so that this one's own is not the cause."""
    return isinstance(error, RuntimeError) and bool(
        re.search(r"gloo|NCCL|TCPStore|Connection (closed|reset) by peer|Broken pipe", str(error))
    )


def _number(asked: Any) -> int | None:
    """How many devices `trainer.devices` names; None for all."""
    if asked in ALL:
        return None
    if isinstance(asked, list | tuple):
        return len(asked)
    indices = [word for word in str(asked).split(",") if word]
    if not all(word.strip().isdigit() for word in indices) or not indices:
        raise UserError(
            f"trainer.devices={asked}: give the number of devices, a list of their indices such as [0,1], or auto"
        )
    return len(indices) if "," in str(asked) else int(asked)


def _on_gpu(accelerator: str) -> bool:
    return accelerator in ("gpu", "cuda", "mps") or (accelerator == "auto" and gpus() > 0)


def _check_slurm() -> None:
    tasks = os.environ["SLURM_NTASKS"]
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise UserError(
            f"srun has started {tasks} tasks without saying how many on a node: "
            "ask SLURM for --nodes and --ntasks-per-node instead of --ntasks"
        )
