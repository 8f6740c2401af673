"""Jobs in new processes, each of which imports everything for itself."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, final

from latentlab.sweeps.jobs import guard


class Guarded(Protocol):
    """A running job behind its guard, as the sweep sees it.

    Attributes:
        pid: the id of the guard.
    """

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Return the exit status of the job, -n if signal n ended the guard, None while it runs."""

    def stop(self) -> None:
        """Send SIGTERM to the job, and SIGKILL after its grace."""

    def kill(self) -> None:
        """Send SIGKILL to the job."""

    def close(self) -> None:
        """Close what connects the sweep to a guard that has ended."""


class Start(Protocol):
    """Starts a job behind a guard.

    Attributes:
        begun: the word for a job that has begun.

    Args:
        words: the command line.
        log: the standard output and error.
        lock: the file descriptor that stays open until the job and its guard have ended.
        grace: seconds between SIGTERM and SIGKILL when the job is stopped.
    """

    @property
    def begun(self) -> str: ...

    def __call__(self, words: Sequence[str], log: IO[bytes], lock: int, grace: float) -> Guarded: ...

    def rejoin(self, place: Path, lock: int, grace: float) -> Guarded | None:
        """Return the job that an earlier sweep started in a directory, if it runs without that sweep."""


@final
@dataclass(frozen=True)
class Spawn:
    """Starts each job in a new process, see `Start`.

    Args:
        environment: the environment variables.
    """

    environment: Mapping[str, str]
    begun: Literal["started"] = "started"

    def rejoin(self, place: Path, lock: int, grace: float) -> None:
        """Return None: a guard ends its job with the sweep."""

    def __call__(self, words: Sequence[str], log: IO[bytes], lock: int, grace: float) -> Guarded:
        return _SpawnedGuard(
            subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(grace), str(lock), *words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C reaches the sweep only, which then stops its jobs
                pass_fds=(lock,),
            )
        )


@final
class _SpawnedGuard:
    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        self._process.terminate()

    close = stop
