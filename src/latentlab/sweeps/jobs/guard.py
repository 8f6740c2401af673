"""A process between a sweep and one of its jobs. It ends the job when the sweep dies.

`python guard.py GRACE LOCK COMMAND ...` runs the command in its own session and exits with its status, or with
128 + n after signal n. Standard input closes when the sweep dies. The guard then sends SIGTERM to the command and
its children, and SIGKILL after GRACE seconds. After SIGTERM the guard sends SIGKILL at once. The guard and the
command both inherit the file descriptor LOCK, so that a lock on it lasts as long as either.

Only the standard library is imported, so that the guard starts in about ten milliseconds.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from ctypes import CDLL
from subprocess import DEVNULL, Popen
from typing import Protocol

TICK = 0.02
PR_SET_PDEATHSIG = 1


class Child(Protocol):
    """A child process, such as a `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


def main(grace: str, lock: str, *command: str) -> int:
    """Run a command and return its exit status."""
    child = Popen(
        command,
        stdin=DEVNULL,
        start_new_session=True,
        pass_fds=(int(lock),),
        preexec_fn=end_with_the_guard if sys.platform == "linux" else None,
    )
    return watch(child, float(grace))


def watch(child: Child, grace: float) -> int:
    """Watch the leader of a process group until it ends, and return its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: _signal(child, signal.SIGKILL))
    _wait(child, lambda: _sweep_is_gone(TICK))
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        deadline = time.monotonic() + grace
        _wait(child, lambda: _passed(deadline))
    _signal(child, signal.SIGKILL)  # ranks and data workers that the command left
    status = child.wait()
    return status if status >= 0 else 128 - status


def end_with_the_guard() -> None:
    """Send SIGTERM to this process when its parent dies. Linux only."""
    CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(child: Child, until: Callable[[], bool]) -> None:
    while child.poll() is None and not until():
        pass


def _sweep_is_gone(seconds: float) -> bool:
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable)


def _passed(deadline: float) -> bool:
    time.sleep(TICK)
    return time.monotonic() > deadline


def _signal(child: Child, signum: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError for a group of zombies
        os.killpg(child.pid, signum)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
