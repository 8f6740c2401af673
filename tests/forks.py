"""The real command line in processes forked from a warm interpreter, so that hundreds of cases are cheap.

`forked` waits for the end of a command, `start` does not. Torch, Lightning and Matplotlib are imported before the fork:
a case that depends on an environment variable which they read at import needs `commands.command`. So does a case about
the start or the end of the interpreter. All workers of pytest-xdist use one server, and its first request imports the
libraries.
"""

import gc
import json
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
WARM = (
    *("numpy", "torch", "pytorch_lightning", "hydra", "wandb", "matplotlib.font_manager", "sklearn.datasets"),
    *("latentlab.cli.training", "latentlab.cli.report", "latentlab.cli.evaluating", "zuko.flows"),
)
KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "LATENTLAB_DATA")
# Elsewhere, libraries do not survive a fork, and a command starts an interpreter.
FORKS = sys.platform == "linux"
ADDRESS = "LATENTLAB_FORK_SERVER"  # the variable that tells the workers the folder of the server
TICK = 0.02


@dataclass(frozen=True)
class Ended:
    """An ended command.

    Attributes:
        status: the exit status, -n after signal n. A command over its limits of time or memory ends by signal 9.
        out: its standard output.
        err: its standard error.
        seconds: its run time, without imports.
        peak_mb: its largest resident memory in MB. The warm interpreter has about 500 of them.
    """

    status: int
    out: str
    err: str
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Running:
    """A running command, the leader of its own process group."""

    pid: int
    folder: Path

    def signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def finish(self, timeout: float = 240, memory: float = 1e6) -> Ended:
        """Wait for the end. The command is killed after `timeout` seconds, or above `memory` MB."""
        answer = _ask(pid=self.pid, timeout=timeout, memory=memory)
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        return Ended(out=out, err=err, **answer)


def start(
    script: str, *arguments: str, home: Path, env: Mapping[str, str] = {}, cwd: Path | None = None
) -> Running:
    """Start `python SCRIPT ARGUMENTS` in `cwd`, by default the folder `home`, as a new user with more variables."""
    folder = Path(tempfile.mkdtemp(dir=os.environ[ADDRESS]))
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    own = {"OMP_NUM_THREADS": "1", "HOME": str(home), "NETRC": str(home / "netrc")}
    words = [str(ROOT / script), *arguments]
    answer = _ask(words=words, env={**kept, **own, **env}, cwd=str(cwd or home), folder=str(folder))
    return Running(answer["pid"], folder)


def forked(
    script: str,
    *arguments: str,
    home: Path,
    env: Mapping[str, str] = {},
    timeout: float = 240,
    memory: float = 1e6,
) -> Ended:
    """Run `python SCRIPT ARGUMENTS` in the folder `home` to its end."""
    return start(script, *arguments, home=home, env=env).finish(timeout, memory)


def open_server() -> Callable[[], None]:
    """Start the server of a test session, and return the function that ends it."""
    folder = tempfile.mkdtemp()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C reaches pytest alone
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    os.environ[ADDRESS] = folder

    def close() -> None:
        server.communicate()  # it ends with its standard input
        del os.environ[ADDRESS]
        shutil.rmtree(folder)

    return close


def _ask(**request: Any) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{os.environ[ADDRESS]}/socket")
        connection.sendall(f"{json.dumps(request)}\n".encode())
        answer: dict[str, Any] = json.loads(connection.makefile().readline())
        return answer


def _answer(connection: socket.socket, answer: Mapping[str, Any]) -> None:
    with connection:
        connection.sendall(f"{json.dumps(answer)}\n".encode())


def _serve(listener: socket.socket) -> dict[str, Any]:
    """Answer requests. The parent never returns; a forked child returns the command that it becomes."""
    begun: dict[int, float] = {}
    waits: dict[int, tuple[socket.socket, dict[str, Any]]] = {}
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], TICK if waits else None)
        if sys.stdin in ready:
            _leave(begun)
        if listener in ready:
            connection, _ = listener.accept()
            request = json.loads(connection.makefile().readline())
            if "words" in request:
                pid = _spawn(request)
                if pid == 0:
                    for inherited in (listener, connection, *(each for each, _ in waits.values())):
                        inherited.close()
                    return request
                begun[pid] = time.monotonic()
                _answer(connection, {"pid": pid})
            else:
                waits[request["pid"]] = connection, request
        for pid, (connection, request) in [*waits.items()]:
            if answer := _reap(pid, begun[pid], request["timeout"], request["memory"]):
                del waits[pid], begun[pid]
                _answer(connection, answer)


def _leave(running: Mapping[int, float]) -> NoReturn:
    for pid in running:
        os.killpg(pid, signal.SIGKILL)
    os._exit(0)


def _spawn(request: Mapping[str, Any]) -> int:
    if not FORKS:
        folder = Path(request["folder"])
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            return subprocess.Popen(
                [sys.executable, *request["words"]],
                cwd=request["cwd"],
                env=request["env"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            ).pid
    folders = _warm()
    pid = os.fork()
    if pid == 0:
        import_module("latentlab.sweeps.jobs.fork_server").make_folders(folders)
    return pid


@cache
def _warm() -> Any:
    for name in WARM:
        import_module(name)
    folders = import_module("latentlab.sweeps.jobs.fork_server").take_folders()
    assert len(os.listdir("/proc/self/task")) == 1, "only a process with one thread may fork"
    gc.freeze()  # the garbage collector of a child would copy all pages
    return folders


def _reap(pid: int, begun: float, timeout: float, memory: float) -> dict[str, Any] | None:
    found, status, usage = os.wait4(pid, os.WNOHANG)
    seconds = time.monotonic() - begun
    if found:
        code = os.waitstatus_to_exitcode(status)
        return {"status": code, "seconds": seconds, "peak_mb": usage.ru_maxrss / 1024}
    if seconds > timeout or _resident_mb(pid) > memory:
        os.killpg(pid, signal.SIGKILL)
    return None


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, IndexError, ProcessLookupError):  # it has ended
        return 0
    return pages * resource.getpagesize() / 2**20


def _become(request: Mapping[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    folder = Path(request["folder"])
    for number, path, flags in (
        (0, Path(os.devnull), os.O_RDONLY),
        (1, folder / "out", os.O_WRONLY | os.O_CREAT),
        (2, folder / "err", os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(path, flags), number)
    sys.argv = request["words"]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    sys.path[:1] = [str(Path(sys.argv[0]).parent), *paths]


if __name__ == "__main__":
    # The child goes on at the top of the module, so that the interpreter itself ends it.
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
    runpy.run_path(sys.argv[0], run_name="__main__")
