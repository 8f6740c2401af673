"""Files of data sets: integrity checks and quiet downloads, with errors of one line."""

import contextlib
import hashlib
import io
import socket
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentlab.errors import UserError

REMEDY = "point data.root or LATENTLAB_DATA at the folder that holds it, or use data=binarised_digits"
SECONDS_TO_ANSWER = 20.0
UNSIGNED = 8  # the code of unsigned bytes in an idx file
# The bytes of a number in an idx file by the code of its type.
WIDTHS = {UNSIGNED: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}


def damaged(path: Path, reason: str) -> UserError:
    """Return the error for a damaged file."""
    return UserError(f"{path} is damaged ({reason}): delete it to download it again")


def check_file(path: Path) -> None:
    """Check that a path is an ordinary file. Reading a pipe would wait forever.

    Raises:
        UserError: if it is a folder, a pipe or a socket.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: {REMEDY}")


def check_md5(path: Path, md5: str) -> None:
    """Check the md5 of a file.

    Raises:
        UserError: if it is another, or `path` is not a file.
    """
    check_file(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise damaged(path, f"md5 {found}, not {md5}")


def check_idx(path: Path, of_mnist: bool = True) -> None:
    """Check the header and the size of an idx file, the format of MNIST and its relatives.

    The header is two zeros, the code of the type, the number of dimensions, and the length of each.

    Args:
        path: the file.
        of_mnist: True to refuse other sizes than 28 x 28.

    Raises:
        UserError: if the file is cut, has another format, or holds images of another size.
    """
    check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        zeros, code, dimensions = struct.unpack(">HBB", file.read(4).ljust(4))
        lengths = [int.from_bytes(file.read(4), "big") for _ in range(min(dimensions, 4))]
    content = 4 * (1 + dimensions) + prod(lengths) * WIDTHS.get(code, 0)
    if zeros or code not in WIDTHS or not 1 <= dimensions <= 3 or not prod(lengths) or size != content:
        raise damaged(path, f"{size} bytes are not a whole idx file")
    if of_mnist and dimensions == 3 and lengths[1:] != [28, 28]:
        raise UserError(f"{path} holds images of {lengths[1]}x{lengths[2]} pixels, not 28x28: {REMEDY}")


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read the unsigned bytes of an idx file, uint8 with 3 dimensions for images and 1 for labels. See `check_idx`.

    Raises:
        UserError: if it holds other numbers or another number of dimensions.
    """
    with path.open("rb") as file:
        _, code, found = struct.unpack(">HBB", file.read(4))
        shape = struct.unpack(f">{found}I", file.read(4 * found))
        if code != UNSIGNED or found != dimensions:
            raise damaged(path, f"{found} dimensions of type {code}, not {dimensions} of unsigned bytes")
        return torch.from_numpy(np.fromfile(file, np.uint8).reshape(shape))


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
