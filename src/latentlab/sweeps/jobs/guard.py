"""A process between a sweep and one of its jobs, that never leaves the job running unseen.

`python guard.py GRACE LOCK COMMAND ...` runs the command in a session of its own, and exits with its status, 128 + n
after signal n. When standard input closes, as it does when the sweep dies, however it dies, the command and all that
it started get SIGTERM, and SIGKILL after GRACE seconds; SIGTERM makes that now. The file descriptor LOCK is kept open
by the guard and by the command, so that a lock on it lasts as long as either.

Imports the standard library only: it starts in some ten milliseconds.
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
from typing import Any

TICK = 0.05
PR_SET_PDEATHSIG = 1


def main(grace: str, lock: str, *command: str) -> int:
    """Run a command until it ends or has to; its exit status."""
    child = Popen(
        command,
        stdin=DEVNULL,
        start_new_session=True,
        pass_fds=(int(lock),),
        preexec_fn=_end_with_the_guard if sys.platform == "linux" else None,
    )
    signal.signal(signal.SIGTERM, lambda *_: _signal(child, signal.SIGKILL))
    _wait(child, lambda: _sweep_is_gone(TICK))
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        deadline = time.monotonic() + float(grace)
        _wait(child, lambda: _passed(deadline))
    _signal(child, signal.SIGKILL)  # what the command left behind: ranks, workers
    status = child.wait()
    return status if status >= 0 else 128 - status


def _wait(child: "Popen[bytes]", until: Callable[[], bool]) -> None:
    while child.poll() is None and not until():
        pass


def _sweep_is_gone(seconds: float) -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable)


def _passed(deadline: float) -> bool:
    time.sleep(TICK)
    return time.monotonic() > deadline


def _signal(child: "Popen[bytes]", signum: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group of zombies
        os.killpg(child.pid, signum)


def _end_with_the_guard(*_: Any) -> None:
    CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
