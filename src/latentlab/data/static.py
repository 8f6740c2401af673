"""Static binarised MNIST: Larochelle's three files, whose pixels were drawn once and for all."""

import contextlib
import logging
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from torchvision.datasets.utils import download_url

from latentlab.errors import UserError
from latentlab.protocols import Protocol

from .files import WAY_OUT, check_md5, downloading, expand
from .module import ImageData, Images, Splits

log = logging.getLogger(__name__)

URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
TRAIN, VALID, TEST = (f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test"))
MD5 = {
    TRAIN: "db28b1a6ae0fe70cbd3da91acf46e477",
    VALID: "bf37822a04e94123630de6a7dfd9c9ef",
    TEST: "14e41ae11040adba6ab8cb291eda0dd8",
}
PIXELS = 28 * 28


class StaticMNIST(ImageData):
    """Larochelle and Murray's binarised MNIST (AISTATS 2011), 50,000 / 10,000 / 10,000, no labels (y = -1).

    Text files are under `root`/BinarizedMNIST/raw, downloaded there when missing, checked by md5, and kept as
    packed bits in the user's cache (or the folder LATENTLAB_CACHE) after the first read. The validation file
    is the end of the training images. Raises UserError where a file is missing without network, or damaged.
    """

    name = "BinarizedMNIST"
    binary = True
    labelled = False

    def __init__(
        self,
        protocol: Protocol,
        root: str | Path = "data",
        batch_size: PositiveInt = 128,
        eval_batch_size: PositiveInt = 1000,
        val_size: NonNegativeInt = 10_000,
        seed: NonNegativeInt = 0,
        draw_seed: NonNegativeInt = 0,
        on_device: bool = True,
        batch_size_per_device: PositiveInt | None = None,
    ) -> None:
        super().__init__(
            protocol,
            batch_size,
            eval_batch_size,
            val_size,
            seed,
            draw_seed,
            on_device,
            batch_size_per_device,
        )
        self.folder = expand(root) / self.name / "raw"

    def prepare_data(self) -> None:
        """Download the files that are missing; UserError where that fails."""
        for file, md5 in MD5.items():
            if not (self.folder / file).exists():
                log.info("downloading %s into %s", file, self.folder)
                with downloading(file, self.folder):
                    fetch(URL + file, self.folder / file, md5)

    def read(self) -> Splits:
        """Training and validation file joined, and the test file; UserError if one is missing or damaged."""
        train, valid, test = (read_amat(self.folder / file, md5) for file, md5 in MD5.items())
        return Splits(unlabelled(np.concatenate([train, valid])), unlabelled(test))


def fetch(url: str, path: Path, md5: str) -> None:
    """Download a file and check it; nothing is left at `path` where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        download_url(url, folder, path.name, md5)
        os.replace(Path(folder) / path.name, path)


def unlabelled(pixels: NDArray[np.uint8]) -> Images:
    """Pixels (N, 784) as images with labels -1."""
    x = torch.from_numpy(pixels).view(-1, 1, 28, 28)
    return Images(x, torch.full((len(x),), -1))


def read_amat(path: Path, md5: str) -> NDArray[np.uint8]:
    """Pixels 0 and 1 (N, 784), from the cache if made from this file; UserError if missing or damaged."""
    if not path.exists():
        raise UserError(f"{path} is missing: {WAY_OUT}")
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
    """Pixels (N, 784) of lines of 784 digits, 0 or 1, between single spaces; UserError for other text."""
    text = np.fromfile(path, dtype=np.uint8)
    if text.size == 0 or text.size % (2 * PIXELS):
        raise UserError(
            f"{path} is damaged ({text.size} bytes are no whole images): delete it to download it again"
        )
    pixels = text[::2] - ord("0")  # fixed width: every second byte is a digit
    if pixels.max() > 1:
        raise UserError(f"{path} is damaged (not only 0 and 1): delete it to download it again")
    return pixels.reshape(-1, PIXELS)


def cache_folder() -> Path:
    """Where packed bits are kept: LATENTLAB_CACHE, or the user's cache directory."""
    return Path(os.environ.get("LATENTLAB_CACHE") or platformdirs.user_cache_path("latentlab")).expanduser()


def load_packed(cache: Path, key: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Packed bits (N, 98), or None if missing, of another file, or damaged (the archive has a checksum)."""
    try:
        with cache.open("rb") as file, np.load(file) as entry:
            packed: NDArray[np.uint8] = entry["packed"]
            return packed if np.array_equal(entry["key"], key) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save_packed(cache: Path, key: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
    """Keep packed bits for the next time, in one step that other processes cannot see half done.

    A cache that cannot be written costs a second next time, and is no error.
    """
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            np.savez(Path(folder) / cache.name, key=key, packed=packed)
            os.replace(Path(folder) / cache.name, cache)
