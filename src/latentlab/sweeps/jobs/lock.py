"""One command at a time in the directory of a sweep."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from latentlab.errors import UserError

LOCK = ".lock"
# What a sweep is told in, before anything starts.
LITTER = {LOCK, "multirun.yaml"}


def make(folder: Path) -> None:
    """Make the directory of a sweep, where it can be written in.

    Raises:
        UserError: when it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror} (choose another place with hydra.sweep.dir=DIR)"
        ) from error


@contextmanager
def tidied(folder: Path) -> Iterator[None]:
    """Leave no directory of a sweep behind a mistake by which nothing was started in it."""
    try:
        yield
    except Exception:
        with suppress(UserError), hold(folder):
            if {path.name for path in folder.iterdir()} <= LITTER:
                shutil.rmtree(folder)
        raise


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other commands out of the directory of a sweep, which is made.

    Raises:
        UserError: when another command runs there, or it cannot be made.
    """
    make(folder)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(f"{folder}: another command runs this sweep; wait for it, or stop it") from error
    try:
        yield
    finally:
        lock.release()
