"""Files that a reader sees whole, files from somebody else, and locks between processes."""

import errno
import fcntl
import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentlab.errors import UserError

log = logging.getLogger(__name__)

DRAFT = ".part"
IN_USE = (errno.EACCES, errno.EAGAIN)
# W&B leaves this link to a log in the home, and never writes through it.
WANDB_LINK = "debug-core.log"
LARGEST_FILE = 2_000_000_000  # bytes
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield the path of a draft, which replaces the file if the block ends without an error.

    A reader sees the old file or the new one, also after a kill or a loss of power. Two writers of the same file
    take turns. The draft is PATH.part, so a draft that a killed process left is overwritten.

    Args:
        path: the file. Its folder is made if only the folder itself is missing.

    Raises:
        OSError: with the name of the file, if it cannot be written.
    """
    draft = path.with_name(f"{path.name}{DRAFT}")
    with naming(path):
        path.parent.mkdir(exist_ok=True)
        with locked(draft, wait=True):
            yield draft
            _flush(draft)
            os.replace(draft, path)
        with suppress(OSError):  # some file systems cannot flush a folder
            _flush(path.parent)


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a text file."""
    with replaced(path) as draft:
        draft.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Append to a text file in one write, so that a reader sees all of the text or nothing."""
    with naming(path), path.open("ab") as file:
        file.write(text.encode())


def read_text(path: Path, most: int = LARGEST_FILE) -> str:
    """Return the text of a file that may come from somebody else.

    Args:
        path: the file.
        most: the largest size, in bytes.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is a pipe or a device, is too large, or is not text.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1) if path.stat().st_size <= most else None
    if content is None or len(content) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return content.decode()


def check_links(folder: Path, paths: Iterable[Path]) -> None:
    """Check that writing some paths writes in a folder only. The folder itself may be a link.

    Args:
        folder: the folder.
        paths: files and folders in it, which may be missing. All that is in these folders is checked too.

    Raises:
        UserError: for a link to another place, a pipe or a device.
    """
    home = os.path.realpath(folder)
    for path in (each for start in paths for each in (start, *_irregular(start))):
        place = os.path.realpath(path)
        if not Path(place).is_relative_to(home):
            raise UserError(
                f"{path} is a link to {place}, outside of {folder}: delete it, or put a copy there"
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is not a regular file: delete it")


def _irregular(start: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(start):
        for path in (Path(folder, name) for name in {*folders, *files} - {WANDB_LINK}):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                yield path


def remove_drafts(folder: Path) -> None:
    """Remove the drafts that killed processes left in a folder. Drafts in use stay."""
    for draft in folder.glob(f"*{DRAFT}"):
        with suppress(OSError, UserError), locked(draft):
            pass


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int]:
    """Hold a lock file, remove it afterwards, and yield its descriptor.

    The lock ends with the process, however it ends. A new program that this process starts does not inherit it.

    Args:
        path: the lock file, which is never a link.
        wait: wait for the process that holds it.

    Raises:
        BlockingIOError: if another process holds it, without `wait`.
        UserError: if it is a link, a pipe or a device, as in a run of an attacker.
    """
    descriptor = _acquire(path, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    try:
        yield descriptor
    finally:
        # Removed before it is unlocked, so that nobody else's lock is removed.
        with suppress(OSError):
            if _is(path, descriptor):
                path.unlink()
        os.close(descriptor)


def _acquire(path: Path, operation: int) -> int:
    while True:
        descriptor = _open(path)
        try:
            _lock(descriptor, operation, path)
        except BaseException:
            os.close(descriptor)
            raise
        if _is(path, descriptor):
            return descriptor
        os.close(descriptor)  # the process that held it has removed or renamed it


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path} is a link: delete it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is not a regular file: delete it")
    return descriptor


def _lock(descriptor: int, operation: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno in IN_USE:
            raise BlockingIOError(error.errno, error.strerror, str(path)) from error
        if error.errno not in NO_LOCKS:
            raise
        if operation & fcntl.LOCK_NB:
            log.warning("%s: this file system has no locks: start no second command there", path.parent)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of a file to an error of writing it, which lacks it, for example on a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
