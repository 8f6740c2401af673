"""Files of data sets: checked before they are read, fetched without torchvision's noise."""

import contextlib
import hashlib
import io
import math
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from latentlab.errors import UserError

# Bytes per value, by the third byte of an idx file: http://yann.lecun.com/exdb/mnist/
IDX_BYTES = {8: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}
WAY_OUT = "point data.root or LATENTLAB_DATA at the folder that holds it, or use data=binarised_digits"
SECONDS_TO_ANSWER = 20.0


def expand(root: str | Path) -> Path:
    """The folder of the data sets, with `~` replaced by the user's home."""
    return Path(root).expanduser()


def check_md5(path: Path, md5: str) -> None:
    """Raise UserError, naming the file, unless its md5 is the one given."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise UserError(f"{path} is damaged (md5 {found}, not {md5}): delete it to download it again")


def check_idx(path: Path) -> None:
    """Raise UserError, naming the file, unless it has an idx header and the size announced there."""
    with path.open("rb") as file:
        head = file.read(16)
    size = path.stat().st_size
    announced = idx_size(head)
    if announced != size:
        wanted = f"{announced} bytes" if announced else "an idx header"
        raise UserError(f"{path} is damaged ({size} bytes, not {wanted}): delete it to download it again")


def idx_size(head: bytes) -> int | None:
    """How many bytes an idx file with this beginning has; None where it is no idx file.

    The header is 0, 0, type, number of dimensions d <= 3, then d big-endian sizes.
    """
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_BYTES or not 1 <= head[3] <= 3:
        return None
    start = 4 + 4 * head[3]
    if len(head) < start:
        return None
    sizes: tuple[int, ...] = struct.unpack(f">{head[3]}I", head[4:start])
    return start + IDX_BYTES[head[2]] * math.prod(sizes)


@contextlib.contextmanager
def downloading(what: str, folder: Path) -> Iterator[None]:
    """Run a download without its noise, not waiting for servers that do not answer; UserError if it fails."""
    seconds = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_TO_ANSWER)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except (OSError, RuntimeError) as error:  # urllib's URLError is an OSError
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(
            f"{what} is not in {folder} and cannot be downloaded ({reason}): {WAY_OUT}"
        ) from error
    finally:
        socket.setdefaulttimeout(seconds)
