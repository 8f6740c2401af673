"""The real command line, in a new process as users run it, or faster in this process."""

import io
import logging
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).resolve().parent.parent
QUICK = (
    "data=binarised_digits",
    "logger=none",
    "callbacks=none",
    "trainer.max_epochs=1",
    "encoder.hidden=[16]",
)
# Nothing answers at this address, so a download fails at once.
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
DATA = os.environ.get("LATENTLAB_DATA", "")
needs_mnist = pytest.mark.skipif(
    not Path(DATA, "MNIST", "raw").is_dir() or not DATA, reason="LATENTLAB_DATA has no MNIST"
)


@dataclass(frozen=True)
class Finished:
    """A finished command: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a new user: one thread, no W&B key, no settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PL_", "HYDRA_"))}
    return kept | {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}


def start(script: str, *arguments: str, home: Path) -> subprocess.Popen[str]:
    """Start a script in a new process."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=home,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(script: str, *arguments: str, home: Path) -> Finished:
    """Run a script in a new process, in the empty folder `home`."""
    process = start(script, *arguments, home=home)
    out, err = process.communicate(timeout=240)
    return Finished(process.returncode, out, err)


def call(script: str, *arguments: str) -> Finished:
    """Run a script in this process, where the libraries are imported already."""
    out, err = io.StringIO(), io.StringIO()
    with untouched(), pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(ROOT / script), *arguments])
        patch.setattr(os, "fsync", lambda descriptor: None)  # no test cuts the power
        patch.setenv("HYDRA_FULL_ERROR", "1")
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "1")
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:  # as the interpreter handles it
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=err)
        else:
            status = 0
    return Finished(status, out.getvalue(), err.getvalue())


@contextmanager
def untouched() -> Iterator[None]:
    """Restore the logging, the signal handler and Hydra's state that a script changes."""
    root, handler = logging.getLogger(), signal.getsignal(signal.SIGTERM)
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for added in set(root.handlers) - set(handlers):
            added.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        signal.signal(signal.SIGTERM, handler)
        GlobalHydra.instance().clear()


def refusal(finished: Finished, status: int = 1) -> str:
    """Return the one line on standard error with which a command was refused."""
    assert finished.status == status, finished
    lines = finished.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), finished.err
    assert "Traceback" not in finished.out + finished.err
    return lines[0]
