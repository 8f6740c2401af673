"""Files of data sets: integrity checks and quiet downloads, with errors of one line."""

import contextlib
import io
import socket
from collections.abc import Iterator
from pathlib import Path

from torchvision.datasets import utils
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from latentlab.errors import UserError

REMEDY = "point data.root or LATENTLAB_DATA at the folder that holds it, or use data=binarised_digits"
SECONDS_TO_ANSWER = 20.0


def damaged(path: Path, reason: str) -> UserError:
    """Return the error for a damaged file."""
    return UserError(f"{path} is damaged ({reason}): delete it to download it again")


def check_md5(path: Path, md5: str) -> None:
    """Check the md5 of a file.

    Raises:
        UserError: if it is another.
    """
    if not utils.check_md5(path, md5):
        raise damaged(path, f"md5 {utils.calculate_md5(path)}, not {md5}")


def check_idx(path: Path) -> None:
    """Check that a file is a whole idx file, the format of MNIST and its relatives.

    Raises:
        UserError: if it is not.
    """
    try:
        read_sn3_pascalvincent_tensor(str(path))
    except (AssertionError, KeyError, RuntimeError, ValueError) as error:
        raise damaged(path, f"{path.stat().st_size} bytes are not a whole idx file") from error


@contextlib.contextmanager
def downloading(what: str, folder: Path) -> Iterator[None]:
    """Download silently inside, with a timeout.

    Raises:
        UserError: if the download fails.
    """
    seconds = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_TO_ANSWER)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except (OSError, RuntimeError) as error:  # urllib's URLError is an OSError
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(f"{what} is not in {folder} and cannot be downloaded ({reason}): {REMEDY}") from error
    finally:
        socket.setdefaulttimeout(seconds)
