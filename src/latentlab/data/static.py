"""Static binarised MNIST: Larochelle's three files, whose binary pixels were drawn once."""

import contextlib
import logging
import os
import zipfile
import zlib
from dataclasses import KW_ONLY, dataclass
from math import prod
from pathlib import Path

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from latentlab.data.files import REMEDY, check_file, check_md5, damaged, downloading
from latentlab.data.images import ImageData, Images, Splits
from latentlab.errors import UserError
from latentlab.run.files import replaced

log = logging.getLogger(__name__)

URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
TRAIN, VALID, TEST = (f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test"))
MD5 = {
    TRAIN: "db28b1a6ae0fe70cbd3da91acf46e477",
    VALID: "bf37822a04e94123630de6a7dfd9c9ef",
    TEST: "14e41ae11040adba6ab8cb291eda0dd8",
}
PIXELS = 28 * 28
# More than all headers in an .npz file.
HEADERS = 4096


@dataclass(eq=False, repr=False)
class StaticMNIST(ImageData):
    """Static binarised MNIST (Larochelle and Murray, AISTATS 2011), 50,000 / 10,000 / 10,000, without labels.

    The text files are in `root`/BinarizedMNIST/raw, are downloaded there if they are missing, and are checked by md5.
    The first read keeps them as packed bits in the user's cache, or in the folder LATENTLAB_CACHE. The validation
    file is the end of the training images.

    Attributes:
        root: the folder of all data sets.

    Raises:
        UserError: for missing or damaged files.
    """

    root: str | Path = "data"
    _: KW_ONLY
    val_size: NonNegativeInt = 10_000

    name = "Static MNIST"
    binary = True
    labelled = False

    @property
    def folder(self) -> Path:
        return Path(self.root).expanduser() / "BinarizedMNIST" / "raw"

    def prepare_data(self) -> None:
        for file, md5 in MD5.items():
            if not (self.folder / file).exists():
                log.info("downloading %s into %s", file, self.folder)
                with downloading(file, self.folder):
                    fetch(URL + file, self.folder / file, md5)

    def read(self) -> Splits:
        train, valid, test = (read_amat(self.folder / file, md5) for file, md5 in MD5.items())
        return Splits(unlabelled(np.concatenate([train, valid])), unlabelled(test))


def fetch(url: str, path: Path, md5: str) -> None:
    """Download a file and check it. A failure leaves no file at `path`."""
    from torchvision.datasets.utils import download_url  # late, as it is slow to import

    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as draft:
        download_url(url, draft.parent, draft.name, md5)


def unlabelled(pixels: NDArray[np.uint8]) -> Images:
    """Return pixels (N, 784) as images with labels -1."""
    x = torch.from_numpy(pixels).view(-1, 1, 28, 28)
    return Images(x, torch.full((len(x),), -1))


def read_amat(path: Path, md5: str) -> NDArray[np.uint8]:
    """Read pixels 0 and 1 (N, 784), from the cache if it was made from this file.

    Raises:
        UserError: if the file is missing or damaged.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: {REMEDY}")
    check_file(path)
    stat = path.stat()
    key = np.array([stat.st_size, stat.st_mtime_ns])
    cache = cache_folder() / f"{path.stem}.npz"
    packed = load_packed(cache, key)
    if packed is None:
        check_md5(path, md5)
        packed = np.packbits(parse_amat(path), axis=1)
        save_packed(cache, key, packed)
    return np.unpackbits(packed, axis=1, count=PIXELS)


def parse_amat(path: Path) -> NDArray[np.uint8]:
    """Parse lines of 784 digits, 0 or 1, between single spaces, to pixels (N, 784).

    Raises:
        UserError: for other text.
    """
    text = np.fromfile(path, dtype=np.uint8)
    if text.size == 0 or text.size % (2 * PIXELS):
        raise damaged(path, f"{text.size} bytes are not a whole number of images")
    pixels = text[::2] - ord("0")  # fixed width: every second byte is a digit
    if pixels.max() > 1:
        raise damaged(path, "not only 0 and 1")
    return pixels.reshape(-1, PIXELS)


def cache_folder() -> Path:
    """The folder of packed bits: LATENTLAB_CACHE, or the user's cache directory."""
    return Path(os.environ.get("LATENTLAB_CACHE") or platformdirs.user_cache_path("latentlab")).expanduser()


def load_packed(cache: Path, key: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Load packed bits (N, 98), or return None if they are missing, made from another file, or damaged."""
    shape = (int(key[0]) // (2 * PIXELS), PIXELS // 8)
    if not cache.is_file() or cache.stat().st_size > 2 * prod(shape) + HEADERS:
        return None
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as entry:
            if entry.zip.getinfo("packed.npy").file_size > prod(shape) + HEADERS:  # a foreign file
                return None
            packed: NDArray[np.uint8] = entry["packed"]
            fits = packed.shape == shape and packed.dtype == np.uint8 and np.array_equal(entry["key"], key)
            return packed if fits else None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
        return None


def save_packed(cache: Path, key: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
    """Save packed bits, if the cache can be written."""
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with replaced(cache) as draft, draft.open("wb") as file:
            np.savez(file, key=key, packed=packed)
