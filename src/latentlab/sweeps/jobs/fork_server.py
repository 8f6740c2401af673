"""The process that forks the jobs of a sweep.

It imports everything that a job needs, and forks a guard for each request, which forks the job. It computes nothing, so
that it has no thread pool and no GPU that a fork would break. A job cannot change anything for the next one. Only Linux
ends a forked job with its guard.
"""

import atexit
import gc
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from runpy import run_module, run_path
from socket import recv_fds, socket
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, final

from latentlab.sweeps.jobs import guard

LARGEST = 1 << 17  # bytes of a request


@final
class _Forked:
    # A forked child as a `guard.Child`.
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        status = self._wait(0)
        assert status is not None
        return status

    def _wait(self, options: int) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, options)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status


def main(requests: str, given: str) -> None:
    """Import modules, and fork a guard and a job for each request.

    Each job leaves the loop and runs its script, so that it ends as a new process does.
    """
    setting = json.loads(given)
    sys.path[:0] = setting["path"]
    for name in setting["preload"]:
        with suppress(Exception):  # the job fails with the same error, and says so in its log
            _load(name)
    gc.collect()
    folders = take_folders()
    # The modules stay. Without this, each collection of garbage in a job visits them all: 0.3 s, and 1 s at its end.
    gc.freeze()
    words = _serve(socket(fileno=int(requests)))
    make_folders(folders)
    _run(words)


def take_folders() -> "list[TemporaryDirectory[Any]]":
    """Delete the temporary folders that the imported modules have made, as W&B does, and return their objects.

    A child that ends would delete them for all others.
    """
    folders = [each for each in gc.get_objects() if issubclass(type(each), TemporaryDirectory)]
    for folder in folders:
        folder.cleanup()
    return folders


def make_folders(folders: "Sequence[TemporaryDirectory[Any]]") -> None:
    """Make temporary folders of this process for the objects that `take_folders` returned.

    Matplotlib makes a folder without such an object if HOME is not writable. All children use it, and none deletes it.
    """
    for folder in folders:
        folder.__init__()  # type: ignore[misc]
    atexit.unregister(shutil.rmtree)


def _load(name: str) -> None:
    # NAME.* are the modules in a package.
    package = import_module(name.removesuffix(".*"))
    if name.endswith(".*"):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)


def _serve(requests: socket) -> list[str]:
    # Returns the words of a command line in each job. The process itself ends with the sweep.
    while True:
        message, given, _, _ = recv_fds(requests, LARGEST, 3)
        _reap(wait=not message)
        if not message:
            atexit._run_exitfuncs()
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            request = json.loads(message)
            _begin(given, request["grace"])
            words: list[str] = request["words"]
            return words
        for descriptor in given:
            os.close(descriptor)


def _reap(wait: bool) -> None:
    # The processor time of the ended guards and jobs counts as time of the sweep.
    with suppress(ChildProcessError):
        while os.waitpid(-1, 0 if wait else os.WNOHANG)[0]:
            pass


def _begin(given: Sequence[int], grace: float) -> None:
    # Returns in the job. The lock stays open.
    channel, log, _ = given
    os.setsid()
    for target, source in enumerate((channel, log, log)):
        os.dup2(source, target)
    os.close(channel)
    os.close(log)
    pid = os.fork()
    if pid:
        _guard(pid, grace)
    os.setpgid(0, 0)
    guard.end_with_the_guard()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if "numpy" in sys.modules:
        import_module("numpy").random.seed()  # a new process draws its own state


def _guard(pid: int, grace: float) -> NoReturn:
    status = 1
    try:
        with suppress(OSError):  # the job does the same: the first of the two wins
            os.setpgid(pid, pid)
        with suppress(OSError):  # the sweep was interrupted meanwhile, and `watch` ends the job
            os.write(0, str(os.getpid()).encode())
        status = guard.watch(_Forked(pid), grace)
        os.write(0, str(status).encode())
    finally:
        os._exit(status)


def _run(words: Sequence[str]) -> None:
    module, sys.argv = _program(words)
    if module:
        run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        run_path(sys.argv[0], run_name="__main__")


def _program(words: Sequence[str]) -> tuple[bool, list[str]]:
    # True for a module, and the program with its arguments. Other options of the interpreter come before it.
    at = next(i for i, word in enumerate(words) if word == "-m" or not word.startswith("-"))
    module = words[at] == "-m"
    return module, list(words[at + module :])


def first_path(words: Sequence[str]) -> list[str]:
    """Return the first entry of sys.path for a command, as the interpreter sets it, [] with -P."""
    module, program = _program(words)
    if "-P" in words[:2]:
        return []
    return [os.getcwd() if module else str(Path(program[0]).resolve().parent)]


if __name__ == "__main__":
    main(*sys.argv[1:])
