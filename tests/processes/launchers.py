"""The environments in which launchers start a process."""

import time

from latentlab.processes import devices

LAUNCHED = (
    devices.RANK,
    devices.PARENT,
    "TORCHELASTIC_RUN_ID",
    "SLURM_STEP_ID",
    "SLURM_NTASKS",
    "LOCAL_RANK",
)
TWO = {"accelerator": "cpu", "devices": 2, "num_nodes": 1}


def slurm(rank=0, tasks=2):
    task = {"JOB_ID": "4711", "STEP_ID": "0", "NTASKS": tasks, "NTASKS_PER_NODE": tasks, "NNODES": 1}
    task |= {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "NODELIST": "127.0.0.1", "JOB_NAME": "train"}
    return {f"SLURM_{name}": str(value) for name, value in task.items()}


def torchrun(rank=0, world=2):
    return {"TORCHELASTIC_RUN_ID": "none", "RANK": str(rank), "WORLD_SIZE": str(world)}


def until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
