"""The ranks of a job on several devices of this machine: they start together and end together.

The parent process does not train. If a rank dies, however it dies, the parent ends the others and reports the reason.
If the parent dies, the ranks notice and end.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, NoReturn

from latentlab.errors import UserError
from latentlab.processes.devices import PARENT, RANK, unlaunched

TICK = 0.1
# The seconds that the others have to notice that a rank died, to end after SIGTERM, and to end after a signal that has
# ended a rank: the first rank closes its loggers then.
PATIENCE, GRACE, CLOSING = 5.0, 20.0, 60.0
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# The exit status of a rank that ended because another rank did.
LOST = 75


@dataclass
class RankProcess:
    """The process of a rank.

    Attributes:
        number: the rank, from 0.
        process: its process.
        output: its output, None for the first rank, which prints for all.
    """

    number: int
    process: "subprocess.Popen[bytes]"
    output: IO[bytes] | None

    @property
    def status(self) -> int | None:
        """The exit status, -n after signal n, None while the process runs."""
        return self.process.poll()

    def printed(self) -> str:
        if self.output is None:
            return ""
        self.output.seek(0)
        return self.output.read().decode(errors="replace").strip()


def run(command: Sequence[str], world: int) -> None:
    """Run a command in `world` processes, with the environment that torchrun gives.

    If the first rank fails, this process exits with its status. It passes SIGTERM, SIGHUP and Ctrl-C on to the ranks,
    and exits with 128 + n when they have ended.

    Raises:
        UserError: if a signal ended a rank, or a rank other than the first failed.
    """
    with ExitStack() as opened:
        shared = {**_environment(), PARENT: str(os.getpid()), "WORLD_SIZE": str(world)}
        received = opened.enter_context(_received())
        ranks: list[RankProcess] = []
        try:
            for number in range(world):
                output = opened.enter_context(TemporaryFile()) if number else None
                ranks.append(_start(command, number, output, shared))
            _watch(ranks, received)
            statuses = [rank.status for rank in ranks]
        finally:
            _end(ranks)
        if received:
            sys.exit(128 + received[0])
        if any(statuses):
            _report(ranks, statuses)


def follow_parent() -> None:
    """End this process within a second of its parent, if `run` started it."""
    if PARENT in os.environ:
        threading.Thread(target=_follow, args=(int(os.environ[PARENT]),), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _environment() -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {**unlaunched(os.environ), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}


def _start(
    command: Sequence[str], number: int, output: IO[bytes] | None, shared: dict[str, str]
) -> RankProcess:
    own = {"RANK": f"{number}", "LOCAL_RANK": f"{number}", RANK: f"{number}/{shared['WORLD_SIZE']}"}
    errors = output and subprocess.STDOUT
    process = subprocess.Popen(command, env={**own, **shared}, stdout=output, stderr=errors)
    return RankProcess(number, process, output)


@contextmanager
def _received() -> Iterator[list[int]]:
    """Yield a list to which the signals of this process are added. Ignored ones, as under nohup, stay ignored."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    own = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in own:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number in own:
            signal.signal(number, before[number])


def _watch(ranks: Sequence[RankProcess], received: Sequence[int]) -> None:
    """Wait for the end of all ranks, or until one has failed and the others have had their time."""
    passed, deadline = 0, math.inf
    while any(rank.status is None for rank in ranks) and time.monotonic() < deadline:
        for number in received[passed:]:
            _send(ranks, number)
        passed = len(received)
        failed = {rank.status for rank in ranks} - {None, 0}
        if failed and deadline == math.inf:
            stopped = failed <= {128 + number for number in SIGNALS}
            deadline = time.monotonic() + (CLOSING if stopped or received else PATIENCE)
        time.sleep(TICK)


def _send(ranks: Sequence[RankProcess], number: int) -> None:
    for rank in ranks:
        if rank.status is None:
            rank.process.send_signal(number)


def _wait(ranks: Sequence[RankProcess], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(rank.status is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(TICK)


def _end(ranks: Sequence[RankProcess]) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        _send(ranks, signum)
        _wait(ranks, GRACE)


def _report(ranks: Sequence[RankProcess], statuses: Sequence[int | None]) -> NoReturn:
    """Report the rank that failed. The first rank has printed its error already."""
    world = len(ranks)
    for rank, status in zip(ranks, statuses, strict=True):
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            raise UserError(f"rank {rank.number} of {world} was killed by {name}, and the job ended with it")
    for rank, status in zip(ranks, statuses, strict=True):
        if status not in (None, 0, LOST):
            if rank.number == 0:
                sys.exit(status)
            error = UserError(f"rank {rank.number} of {world}: {_reason(rank, status)}")
            error.status = status  # e.g. that of a diverged run
            raise error
    raise UserError(f"the {world} processes of this job lost one another: {_reason(ranks[-1], LOST)}")


def _reason(rank: RankProcess, status: int | None) -> str:
    lines = rank.printed().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    print(rank.printed(), file=sys.stderr)  # a traceback
    return lines[-1] if lines else f"exit status {status}"
