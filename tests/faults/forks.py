"""The real command line in processes forked from a warm interpreter, so that hundreds of cases are cheap.

`forked` waits for the end of a command, `start` does not. Torch, Lightning and Matplotlib are imported before the fork:
a case that depends on an environment variable which they read at import needs `commands.command`.
"""

import atexit
import gc
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
WARM = (
    *("numpy", "torch", "pytorch_lightning", "hydra", "wandb", "matplotlib.font_manager", "sklearn.datasets"),
    *("latentlab.cli.training", "latentlab.cli.report", "latentlab.cli.evaluating", "zuko.flows"),
)
KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "LATENTLAB_DATA")
TICK = 0.02
LEAKS = "nanobind: leaked"  # a library's remark on objects that are frozen, when the interpreter ends


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

    def finish(self, timeout: float = 60, memory: float = 1e6) -> Ended:
        """Wait for the end. The command is killed after `timeout` seconds, or above `memory` MB."""
        answer = _ask(pid=self.pid, timeout=timeout, memory=memory)
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        return Ended(out=out, err=err.partition(LEAKS)[0], **answer)


def start(
    script: str, *arguments: str, home: Path, env: Mapping[str, str] = {}, cwd: Path | None = None
) -> Running:
    """Start `python SCRIPT ARGUMENTS` in `cwd`, by default the folder `home`, as a new user with more variables."""
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
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
    timeout: float = 60,
    memory: float = 1e6,
) -> Ended:
    """Run `python SCRIPT ARGUMENTS` in the folder `home` to its end."""
    return start(script, *arguments, home=home, env=env).finish(timeout, memory)


@cache
def _scratch() -> str:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return folder.name


@cache
def _server() -> "subprocess.Popen[str]":
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **single},
    )
    atexit.register(server.kill)
    return server


def _ask(**request: Any) -> dict[str, Any]:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps(request), file=server.stdin, flush=True)
    answer: dict[str, Any] = json.loads(server.stdout.readline())
    return answer


def _serve() -> dict[str, Any]:
    """Answer requests. The parent never returns; a forked child returns the command that it becomes."""
    for name in WARM:
        import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "only a process with one thread may fork"
    gc.freeze()  # the garbage collector of a child would copy all pages
    begun: dict[int, float] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "words" in request:
            pid = os.fork()
            if pid == 0:
                return request
            begun[pid] = time.monotonic()
            answer: dict[str, Any] = {"pid": pid}
        else:
            answer = _reap(request["pid"], begun.pop(request["pid"]), request["timeout"], request["memory"])
        print(json.dumps(answer), flush=True)
    os._exit(0)


def _reap(pid: int, begun: float, timeout: float, memory: float) -> dict[str, Any]:
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - begun
        if found:
            code = os.waitstatus_to_exitcode(status)
            return {"status": code, "seconds": seconds, "peak_mb": usage.ru_maxrss / 1024}
        if seconds > timeout or _resident_mb(pid) > memory:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(TICK)


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, IndexError, ProcessLookupError):  # it has ended
        return 0
    return pages * resource.getpagesize() / 2**20


def _become(request: Mapping[str, Any]) -> None:
    os.setsid()
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
    sys.path[0] = str(Path(sys.argv[0]).parent)


if __name__ == "__main__":
    # The child goes on at the top of the module, so that the interpreter itself ends it.
    _become(_serve())
    runpy.run_path(sys.argv[0], run_name="__main__")
