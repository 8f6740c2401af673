"""The machine of a benchmark, its versions, and the work of others on it."""

import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "numpy")
# Features of the processor that change the time of matrix products.
FEATURES = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}
BUSY = 0.1  # the share of the processor time, taken by others, from which a warning is given


def describe(tree: Path) -> dict[str, str]:
    """Return the machine and the versions of the code in a working tree."""
    return {
        "processor": f"{_processor()}, {_cores()} cores allowed, {_features()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB",
        "system": platform.platform(),
        "versions": ", ".join([f"python {platform.python_version()}", *_versions()]),
        "latentlab": _commit(tree),
        "threads": os.environ.get("OMP_NUM_THREADS", "each process chooses"),
    }


def load() -> dict[str, float]:
    """Return the share of the processor time that others use or the host takes (steal), over a second, and the load."""
    found = {"load": os.getloadavg()[0]}
    before = _times()
    time.sleep(1.0)
    spent = [after - start for after, start in zip(_times(), before, strict=True)]
    if total := sum(spent):  # user, nice, system, idle, iowait, irq, softirq, steal
        found |= {"busy": 1 - (spent[3] + spent[4]) / total, "steal": spent[7] / total}
    return found


def warning(found: dict[str, float]) -> str:
    """Return a warning if the machine is busy, "" if it is not."""
    busy = found.get("busy", found["load"] / (os.cpu_count() or 1))
    if busy < BUSY:
        return ""
    return f"warning: other processes use {busy:.0%} of the processors: the ratios of wall times mean little"


def _times() -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return [0] * 8


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _features() -> str:
    flags = _cpuinfo("flags").split()
    return ", ".join(name for flag, name in FEATURES.items() if flag in flags) or "features unknown"


def _cpuinfo(key: str) -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def _commit(tree: Path) -> str:
    words = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() or f"no commit, {sys.prefix}"
