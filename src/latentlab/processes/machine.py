"""The memory of this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory.limit_in_bytes")  # of both versions of cgroups


def machine() -> int | None:
    """Return the bytes that this process may use: those of the machine or of its cgroup, None if unknown."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return min([physical, *_cgroup_limits()])


def _cgroup_limits() -> Iterator[int]:
    for folder in cgroups("memory"):
        for path in (folder / name for name in LIMITS):
            text = path.read_text().strip() if path.is_file() else "max"
            if text.isdigit():
                yield int(text)


def cgroups(controller: str) -> list[Path]:
    """Return the folders of this process's cgroup and of those above it, of both versions.

    Args:
        controller: the controller of the first version, "memory" or "cpu".
    """
    lines = Path("/proc/self/cgroup")
    fields = [line.split(":", 2) for line in lines.read_text().splitlines()] if lines.is_file() else []
    found = [  # 0::/user/job or 5:cpu,cpuacct:/job
        CGROUPS / kind / path.lstrip("/")
        for _, kind, path in fields
        if not kind or controller in kind.split(",")
    ]
    return [*found, *(above for folder in found for above in folder.parents if above.is_relative_to(CGROUPS))]
