"""The devices of a job, the rank of this process, and the requests that are refused before a process starts.

A job on a single device does not import torch here, so the command line answers at once.
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

# `processes.ranks` sets these for the processes that it starts: the id of their parent, and RANK/WORLD. Lightning
# deletes WORLD_SIZE after training, so the number of ranks is kept here.
PARENT, RANK = "LATENTLAB_PARENT", "LATENTLAB_RANK"
# A sweep sets this for its jobs.
JOB = "LATENTLAB_JOB"
# The number of processes that a user allows on the CPU.
PROCESSES = "LATENTLAB_PROCESSES"
ALL = ("auto", "-1", -1)


@dataclass(frozen=True)
class Launched:
    """A process that a launcher started, one of several.

    Attributes:
        launcher: the launcher's name.
        rank: the number of this process, from 0.
        world: the number of processes.
    """

    launcher: str
    rank: int
    world: int


def launched() -> Launched | None:
    """Return this process as its launcher describes it in the environment, None without a launcher."""
    env = os.environ
    if RANK in env:
        return Launched("latentlab", *map(int, env[RANK].split("/")))
    if "TORCHELASTIC_RUN_ID" in env:
        return Launched("torchrun", int(env["RANK"]), int(env["WORLD_SIZE"]))
    # A batch script has SLURM_NTASKS as well. Only the tasks of a step have SLURM_STEP_ID.
    if "SLURM_STEP_ID" in env and int(env.get("SLURM_NTASKS", 1)) > 1:
        return Launched("srun", int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]))
    return None


def has_peers(trainer: Mapping[str, Any]) -> bool:
    """Return True if a launcher started this process as one of several that train together.

    Tasks of srun that have one device each are separate experiments, such as agents of a sweep.
    """
    here = launched()
    return here is not None and here.world > 1 and (here.launcher != "srun" or total_devices(trainer) > 1)


def rank(trainer: Mapping[str, Any]) -> int:
    """Return the rank of this process among those that train together."""
    here = launched()
    return here.rank if here is not None and has_peers(trainer) else 0


def ranks_to_start(trainer: Mapping[str, Any], in_sweep: bool) -> int:
    """Return the number of processes that this one starts for its job, 0 if it trains itself.

    Args:
        trainer: the trainer's config.
        in_sweep: True if this process itself runs the jobs of a sweep.

    Raises:
        UserError: if devices are missing, the launcher started another number of processes, or `in_sweep` is True.
    """
    total, here = total_devices(trainer), launched()
    wanted = f"trainer.devices={trainer.get('devices')}"
    if in_sweep and total > 1:
        raise UserError(
            f"{wanted}: each job of a sweep on several devices needs its own process: "
            "leave hydra/launcher at its default, which starts one"
        )
    if here is not None and here.launcher == "srun" and total > 1:
        _check_slurm()
    if here is not None and (here.launcher != "srun" or total > 1):
        if here.world != total:
            raise UserError(
                f"{here.launcher} has started {here.world} processes, but {wanted} with "
                f"trainer.num_nodes={trainer.get('num_nodes', 1)} is {total}: start one process for each device"
            )
        return 0
    check_one_node(trainer)
    check_cores(trainer)
    return total if total > 1 else 0


def check_one_node(trainer: Mapping[str, Any]) -> None:
    """Check that a job without a launcher needs only this machine.

    Raises:
        UserError: if it needs several nodes.
    """
    if trainer.get("num_nodes", 1) > 1:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: start several nodes with srun or torchrun "
            "(docs/devices.md has the commands)"
        )


def check_cores(trainer: Mapping[str, Any]) -> None:
    """Check that a job on the CPU has no more processes than cores.

    Raises:
        UserError: if it has, unless the environment variable LATENTLAB_PROCESSES allows as many.
    """
    number = devices_per_node(trainer)
    if number <= 2 or _on_gpu(trainer.get("accelerator", "auto")):  # the default number starts everywhere
        return
    there, allowed = cores(), os.environ.get(PROCESSES, "")
    if number > max(there, int(allowed) if allowed.isdigit() else 0):
        raise UserError(
            f"trainer.devices={number}: there are {there} cores, and each process needs one: "
            f"set trainer.devices={max(there, 2)}, or {PROCESSES}={number} in the environment to start them all"
        )


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def check_started_once(many_workers: bool) -> None:
    """Check that a launcher did not start this sweep several times.

    Args:
        many_workers: True if several workers may share the sweep, as tasks of srun.

    Raises:
        UserError: if each process would run the whole sweep.
    """
    here = launched()
    if here is not None and here.world > 1 and not (many_workers and here.launcher == "srun"):
        raise UserError(
            f"{here.launcher} has started {here.world} processes, and each would run the whole sweep: start it "
            f"without {here.launcher}, and each job starts its own processes"
        )


def is_job() -> bool:
    """Return True in a job of a sweep."""
    return JOB in os.environ


def unlaunched(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of an environment without SLURM's variables, so that a child process is not a SLURM task.

    SLURM_CONF stays: it names the configuration of the cluster.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith("SLURM_")}
    return kept | {name: environment[name] for name in ("SLURM_CONF",) if name in environment}


def total_devices(trainer: Mapping[str, Any]) -> int:
    """Return the number of devices over all nodes.

    Raises:
        UserError: if no device is asked for, or more than the machine has.
    """
    return devices_per_node(trainer) * int(trainer.get("num_nodes", 1))


def devices_per_node(trainer: Mapping[str, Any]) -> int:
    """Return the number of devices on one node.

    Raises:
        UserError: if no device is asked for, or more than the machine has.
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
            f"trainer.devices={asked}: this build of torch finds no GPU: trainer=ddp_cpu trains in several "
            "processes on the CPU, trainer=cpu in one"
        )
    if number is not None and number > there:
        raise UserError(f"trainer.devices={asked}: torch finds {there} GPU{'s' if there > 1 else ''} here")
    return number or there


def gpus() -> int:
    """Return the number of GPUs that torch finds."""
    import torch

    return torch.cuda.device_count() or int(torch.backends.mps.is_available())


def hush() -> None:
    """Silence all logging below errors, and all warnings."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def common_start(now: str) -> str:
    """Return one name for the start of this job on all its ranks, on any number of nodes.

    Args:
        now: the time on this rank. With torchrun, all ranks get the first rank's time.

    Raises:
        UserError: if torchrun offers no store to share it.
    """
    here, env = launched(), os.environ
    assert here is not None
    if here.launcher == "srun":
        # A job that SLURM queues again keeps its id, so it resumes in the same directory.
        return f"slurm-{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}"
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UserError(
            "this version of torchrun cannot share a directory name between ranks: give hydra.run.dir=DIR"
        )
    from torch.distributed import TCPStore

    # The process group does not exist yet, so the ranks meet at torchrun's store.
    store = TCPStore(
        env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=120)
    )
    key = f"latentlab/start/{env.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if here.rank == 0:
        store.set(key, now)
    return store.get(key).decode()


def lost_a_peer(error: BaseException) -> bool:
    """Return True if the cause of an error is that another rank ended."""
    return isinstance(error, RuntimeError) and bool(
        re.search(r"gloo|NCCL|TCPStore|Connection (closed|reset) by peer|Broken pipe", str(error))
    )


def _number(asked: Any) -> int | None:
    """Return the number of devices that `trainer.devices` asks for, None for all."""
    if asked in ALL:
        return None
    if isinstance(asked, list | tuple):
        return len(asked)
    indices = [word for word in str(asked).split(",") if word]
    if not all(word.strip().isdigit() for word in indices) or not indices:
        raise UserError(
            f"trainer.devices={asked}: give the number of devices, a list of indices such as [0,1], or auto"
        )
    return len(indices) if "," in str(asked) else int(asked)


def _on_gpu(accelerator: str) -> bool:
    return accelerator in ("gpu", "cuda", "mps") or (accelerator == "auto" and gpus() > 0)


def _check_slurm() -> None:
    tasks = os.environ["SLURM_NTASKS"]
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise UserError(
            f"srun has started {tasks} tasks without a number of tasks per node: "
            "ask SLURM for --nodes and --ntasks-per-node instead of --ntasks"
        )
