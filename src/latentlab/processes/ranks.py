"""The processes of a job on several devices of this machine: started together, looked after, and ended together.

The process that the user started trains nothing itself. So whichever rank dies, however it dies, it sees that, ends
the others and says why; and where it dies itself, the ranks notice.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, NoReturn

from latentlab.errors import UserError
from latentlab.processes.places import PARENT, RANK, unlaunched

TICK = 0.1
# How long the others may take to notice that a rank is gone, and how long to end when they are told to.
PATIENCE, GRACE = 5.0, 20.0
# The exit status of a rank whose own trouble is that another one is gone.
LOST = 75


@dataclass
class Rank:
    """A running rank.

    Attributes:
        number: its number, from 0.
        process: its process.
        output: what it prints; None for the first, which prints for all of them.
    """

    number: int
    process: "subprocess.Popen[bytes]"
    output: IO[bytes] | None

    @property
    def status(self) -> int | None:
        """The exit status, -n after signal n; None while it runs."""
        return self.process.poll()

    def words(self) -> str:
        """What it has printed."""
        if self.output is None:
            return ""
        self.output.seek(0)
        return self.output.read().decode(errors="replace").strip()


def run(command: Sequence[str], world: int) -> None:
    """Run a command in `world` processes, which find one another by the environment as under torchrun.

    Exits with the status of the rank that failed.

    Raises:
        UserError: naming the rank that was killed, or failed without the first having said why.
    """
    with ExitStack() as opened:
        shared = {**_environment(), PARENT: str(os.getpid()), "WORLD_SIZE": str(world)}
        ranks: list[Rank] = []
        try:
            for number in range(world):
                output = opened.enter_context(TemporaryFile()) if number else None
                ranks.append(_start(command, number, output, shared))
            while any(rank.status is None for rank in ranks) and not any(rank.status for rank in ranks):
                time.sleep(TICK)
            _wait(ranks, PATIENCE)
            statuses = [rank.status for rank in ranks]
        except KeyboardInterrupt:  # a terminal sends it to the ranks too
            _wait(ranks, GRACE)
            sys.exit(128 + signal.SIGINT)
        finally:
            _end(ranks)
        if any(statuses):
            _explain(ranks, statuses)


def follow_parent() -> None:
    """End this process soon after the one that looks after it, if there is one, whatever it is waiting for."""
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


def _start(command: Sequence[str], number: int, output: IO[bytes] | None, shared: dict[str, str]) -> Rank:
    mine = {
        "RANK": f"{number}",
        "LOCAL_RANK": f"{number}",
        RANK: f"{number}/{shared['WORLD_SIZE']}",
        **shared,
    }
    return Rank(
        number,
        subprocess.Popen(command, env=mine, stdout=output, stderr=output and subprocess.STDOUT),
        output,
    )


def _wait(ranks: Sequence[Rank], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(rank.status is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(TICK)


def _end(ranks: Sequence[Rank]) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for rank in ranks:
            if rank.status is None:
                rank.process.send_signal(signum)
        _wait(ranks, GRACE)


def _explain(ranks: Sequence[Rank], statuses: Sequence[int | None]) -> NoReturn:
    """Say what became of the rank that failed, unless it is the first, which has said it."""
    world = len(ranks)
    for rank, status in zip(ranks, statuses, strict=True):
        if status is not None and status < 0:
            raise UserError(
                f"rank {rank.number} of {world} was killed by {signal.Signals(-status).name}, and the job ended with it"
            )
    for rank, status in zip(ranks, statuses, strict=True):
        if status not in (None, 0, LOST):
            if rank.number == 0:
                sys.exit(status)
            raise UserError(f"rank {rank.number} of {world}: {_reason(rank, status)}")
    raise UserError(f"the {world} processes of this job lost one another: {_reason(ranks[-1], LOST)}")


def _reason(rank: Rank, status: int | None) -> str:
    lines = rank.words().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    print(rank.words(), file=sys.stderr)  # a traceback
    return lines[-1] if lines else f"exit status {status}"
