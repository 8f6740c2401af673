"""Jobs forked from one process that has imported everything that a job needs, see `fork_server`."""

import json
import logging
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from select import select
from socket import AF_UNIX, SHUT_WR, SOCK_SEQPACKET, send_fds, socket, socketpair
from typing import IO, Any, Literal, final

from latentlab.sweeps.jobs import fork_server
from latentlab.sweeps.jobs.fork_server import LARGEST, first_path
from latentlab.sweeps.jobs.spawn import Guarded, Spawn

logger = logging.getLogger(__name__)

# The modules that a run imports, at its start or late. NAME.* are the modules in a package. Any may be missing.
PRELOAD = (
    "latentlab.cli.train", "latentlab.cli.experiment", "latentlab.cli.report", "latentlab.cli.training",
    "latentlab.callbacks.*", "latentlab.classical.*", "latentlab.data.*", "latentlab.figures.*",
    "latentlab.likelihoods.*", "latentlab.lit.*", "latentlab.models.*", "latentlab.nn.*", "latentlab.tracking.*",
    "latentlab.sweeps.jobs.naming", "hydra._internal.logging_config", "sklearn.datasets", "matplotlib.pyplot",
    "torch.utils._device", "torch.utils.serialization", "torch.nested._internal.nested_tensor",
    "PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin",
    "wandb.sdk.launch", "wandb.apis.public", "wandb.sdk.artifacts._internal_artifact",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter", "opentelemetry.exporter.otlp.proto.http._log_exporter",
)  # fmt: skip
# The seconds in which the process adds up the processor time of its jobs at the end.
WAIT = 2.0


@final
class Fork:
    """Starts each job as a fork of one process, see `spawn.Start`.

    Args:
        command: the command of a job without overrides.
        environment: the environment variables of all jobs. Libraries read some of them when they are imported.
        preload: the modules to import.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], preload: Sequence[str] = PRELOAD
    ) -> None:
        self.command = tuple(command)
        self.preload = tuple(preload)
        self._spawn = Spawn(environment)
        self._server: _Server | None = None
        self._ended = False

    begun: Literal["started"] = "started"

    def rejoin(self, place: Path, lock: int, grace: float) -> None:
        """Return None: a guard ends its job with the sweep."""

    def launch(self) -> None:
        """Start the process, which imports the modules meanwhile."""
        if self._server is None:
            path = first_path(self.command[1:])
            self._server = _Server.start({"path": path, "preload": self.preload}, self._spawn.environment)
            weakref.finalize(self, self._server.end)

    def __call__(self, words: Sequence[str], log: IO[bytes], lock: int, grace: float) -> Guarded:
        """Start a job, once the modules are imported. If the process was killed, the job starts in a new one."""
        request = json.dumps({"words": list(words[1:]), "grace": grace}).encode()
        return (not self._ended and self._fork(request, log, lock)) or self._spawn(words, log, lock, grace)

    def _fork(self, request: bytes, log: IO[bytes], lock: int) -> Guarded | None:
        self.launch()
        assert self._server is not None
        if guarded := self._server.fork(request, log, lock):
            return guarded
        self._ended = True
        logger.warning("the process that forks the jobs has ended: each job imports for itself now")
        return None


@dataclass
class _Server:
    # The process as the sweep sees it.
    process: "subprocess.Popen[bytes]"
    requests: socket
    has_forked: bool = False

    @classmethod
    def start(cls, given: Mapping[str, Any], environment: Mapping[str, str]) -> "_Server":
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", fork_server.__name__, str(theirs.fileno()), json.dumps(given)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the sweep only
                pass_fds=(theirs.fileno(),),
            )
        return cls(process, ours)

    def fork(self, request: bytes, log: IO[bytes], lock: int) -> "_ForkedGuard | None":
        # Returns None if the process has ended.
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        answer = b""
        with suppress(ConnectionError):
            with theirs:
                send_fds(self.requests, [request], [theirs.fileno(), log.fileno(), lock])
            answer = ours.recv(LARGEST)
        self.has_forked = True
        if answer:
            return _ForkedGuard(ours, int(answer))
        ours.close()
        return None

    def end(self) -> None:
        self.requests.close()
        try:
            self.process.wait(timeout=WAIT if self.has_forked else 0)
        except subprocess.TimeoutExpired:  # it still imports
            self.process.kill()
            self.process.wait()


@final
class _ForkedGuard:
    def __init__(self, channel: socket, pid: int) -> None:
        self.pid = pid
        self._channel = channel
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None and select([self._channel], [], [], 0)[0]:
            answer = self._channel.recv(LARGEST)
            self._status = int(answer) if answer else -signal.SIGKILL
        return self._status

    def stop(self) -> None:
        with suppress(OSError):  # the guard has ended
            self._channel.shutdown(SHUT_WR)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def close(self) -> None:
        self._channel.close()
