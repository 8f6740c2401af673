"""The threads of a process: how long they wait for each other, and how many compute a training step."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from latentlab.processes.devices import cores
from latentlab.processes.machine import cgroups

# OpenMP's threads spin while they wait for each other. If another process needs the cores, the one that works waits for
# those that spin: a step of batch 32 took 560 ms instead of 29 on two busy cores. Beside a busy process, convolutions
# are the faster the shorter the spin. Alone, they need 10,000: with 1,000 spins, their threads fall asleep between two
# operations, and a step takes 1.4 to 1.8 times as long.
# The first variable is read by GNU's library, in torch's wheels for Linux, and counts spins. The second one is read by
# LLVM's and Intel's, in those for macOS, and counts milliseconds.
SPINS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
POLICY = "OMP_WAIT_POLICY"
NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SHARE = "LATENTLAB_SHARE"  # holds OMP_NUM_THREADS if the sweep has set it
# The multiply-adds of a step's forward pass that occupy a thread. With less, two threads take 1.4 times the processor
# time of one.
WORK = 2**25


def limit_spinning() -> None:
    """Let waiting threads sleep soon, unless the user has chosen. This has no effect once torch is imported."""
    if POLICY not in os.environ:
        for name, value in SPINS.items():
            os.environ.setdefault(name, value)


def choose(work: int | None = None, processes: int = 1) -> int:
    """Return the number of threads for a step: as many as its work occupies, and no more than torch has now.

    A number in the environment is the user's, and stays.

    Args:
        work: the multiply-adds of a forward pass, see `multiply_adds`. None for any number.
        processes: the number of processes that share the cores.

    Returns:
        The number. It is the same each time on a machine, so that equal seeds give equal results.
    """
    import torch

    now = torch.get_num_threads()
    if _chosen_by_user():
        return now
    most = min(now, max(1, usable_cores() // processes))
    return most if work is None else min(most, max(1, work // WORK))


def share(sharing: int) -> dict[str, str]:
    """Return the environment of a process that gets an equal share of the cores, unless the user has chosen.

    Args:
        sharing: the number of processes that share the cores.
    """
    if sharing == 1 or _chosen_by_user():
        return {}
    number = str(max(1, usable_cores() // sharing))
    return {NUMBERS[0]: number, SHARE: number}


def _chosen_by_user() -> bool:
    return any(name in os.environ and os.environ[name] != os.environ.get(SHARE) for name in NUMBERS)


def use(number: int) -> None:
    """Compute with this number of threads from now on, in a process that may have imported torch."""
    import torch

    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def multiply_adds(weights: Iterable[Any], examples: int, pixels: int) -> int:
    """Return the approximate multiply-adds of a forward pass.

    A weight of a matrix is used once for each example. One of a convolution is used at every position, here at a
    sixteenth of the pixels.

    Args:
        weights: the parameters of the networks.
        examples: the number of examples, times their draws.
        pixels: the number of pixels of an image.
    """
    return examples * sum(each.numel() * (max(1, pixels // 16) if each.ndim > 2 else 1) for each in weights)


def usable_cores() -> int:
    """Return the number of cores that this process may use at a time, by its affinity and the quota of its cgroup."""
    return max(1, min([cores(), *(int(quota) for quota in _quotas())]))


def _quotas() -> Iterable[float]:
    """Yield the cores of the quotas: `cpu.max` of cgroups' second version, and the two files of the first."""
    for folder in cgroups("cpu"):
        if (path := folder / "cpu.max").is_file():
            quota, period = path.read_text().split()
        else:
            quota, period = (_content(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _content(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
