"""The phases of a command: the seconds between moments of this process."""

import os
import time
from contextlib import suppress
from pathlib import Path

_IMPORTED = time.perf_counter()
_ends: list[tuple[str, float]] = []
_begun: float | None = None  # the begin of a later command


def reached(phase: str) -> None:
    """Note the end of a phase, which began at the end of the one before it."""
    _ends.append((phase, time.perf_counter()))


def begin() -> None:
    """Begin the phases of a command. The first one of a process began with the process, a later one begins now."""
    global _begun
    if _ends:
        _begun = time.perf_counter()
    _ends.clear()


def durations() -> dict[str, float]:
    """Return the seconds of each phase, in the order of their first ends."""
    found: dict[str, float] = {}
    before = process_start() if _begun is None else _begun
    for phase, end in _ends:
        found[phase] = found.get(phase, 0.0) + end - before
        before = end
    return found


def process_start() -> float:
    """The start of this process on the clock of `time.perf_counter`, or the import of this module if it is unknown."""
    with suppress(OSError, AttributeError, ValueError, IndexError):
        # The 22nd field of Linux, counted after the name in parentheses, which may hold spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds after the boot
        return time.perf_counter() - (time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    return _IMPORTED
