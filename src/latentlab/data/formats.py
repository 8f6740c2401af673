"""The formats of a user's images: one reader for each."""

import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentlab.data.arrays import Array, Conversion, Part, as_parts
from latentlab.data.files import check_idx, read_idx
from latentlab.data.hugging_face import is_hugging_face, read_hugging_face
from latentlab.data.pictures import SPLITS, read_folder
from latentlab.errors import UserError
from latentlab.processes.machine import machine
from latentlab.run.archive import outline

log = logging.getLogger(__name__)

# The words of a key in an .npz or .pt file.
PIXELS = ("x", "image", "images", "img", "imgs", "data", "pixels")
LABELS = ("y", "label", "labels", "target", "targets")
KEYS = "x and y, x_train, y_train, x_test and y_test, or train_images and train_labels"
# Unpacked arrays may take this many bytes, or this many times the size of their file.
SMALL = 2**28
MOST_PACKED = 200
MISTAKES = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError),
    *(ValueError, pickle.UnpicklingError, zipfile.BadZipFile),
)


def read_images(path: Path, convert: Conversion) -> dict[str, Part]:
    """Read the images at a path, by split: `train`, and `val` and `test` if the path holds them apart.

    Raises:
        UserError: if there are none, or they cannot be read.
    """
    if not path.exists():
        raise UserError(f"data.path={path}: there is no such file or folder")
    if path.is_dir():
        try:
            return next(read for fits, read in FOLDERS if fits(path))(path, convert)
        except OSError as error:
            place = error.filename or path
            raise UserError(f"data.path={path}: {place} cannot be read ({error.strerror})") from error
    if path.suffix.lower() not in FILES or not path.is_file():
        raise UserError(
            f"data.path={path}: give a folder of images, or a file that ends in {', '.join(FILES)} "
            "(unpack an archive first)"
        )
    limit = machine()
    if limit is not None and path.stat().st_size > limit:
        raise UserError(f"data.path={path}: a file of {path.stat().st_size:,} bytes does not fit into memory")
    return FILES[path.suffix.lower()](path, convert)


def read_npy(path: Path, convert: Conversion) -> dict[str, Part]:
    """Read an array of images without labels."""
    with _one_line(path, "array of numbers"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    return as_parts({"train": (array, None)}, path, convert)


def read_npz(path: Path, convert: Conversion) -> dict[str, Part]:
    """Read several arrays: images and labels, perhaps in splits."""
    with _one_line(path, "archive of arrays of numbers"), np.load(path, allow_pickle=False) as file:
        _check_unpacked(path)
        found = by_split({key: key for key in file.files}, path)
        arrays = {split: tuple(key and file[key] for key in keys) for split, keys in found.items()}
    return as_parts(arrays, path, convert)


def read_pt(path: Path, convert: Conversion) -> dict[str, Part]:
    """Read a tensor of images, a pair (x, y), or a dict, perhaps in splits. Objects are refused."""
    with _one_line(path, "tensor, pair (x, y) or dict of tensors"):
        outline(path)  # torch would take as much memory as the file asks for
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Tensor):
        content = {"x": content}
    if isinstance(content, list | tuple) and all(isinstance(each, Tensor) for each in content[:2]):
        content = dict(zip("xy", content, strict=False))
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds no tensor, pair (x, y) or dict of tensors, but {type(content).__name__}"
        )
    return as_parts(by_split({key: _array(value) for key, value in content.items()}, path), path, convert)


def read_idx_folder(folder: Path, convert: Conversion) -> dict[str, Part]:
    """Read the files of MNIST and its relatives, as torchvision keeps them."""
    arrays = {}
    for images in _idx_files(folder):
        labels = images.with_name(images.name.replace("-images-idx3-", "-labels-idx1-"))
        for path in (images, labels):
            check_idx(path, of_mnist=False)
        split = "train" if images.name.startswith("train") else "test"
        arrays[split] = (read_idx(images, 3).numpy(), read_idx(labels, 1).long().numpy())
    return as_parts(arrays, folder, convert)


def by_split(values: Mapping[Any, Any], path: Path) -> dict[str, tuple[Any, Any]]:
    """Return the images and the labels of each split, by the words of their keys. A set without splits is `train`.

    Raises:
        UserError: if there are no images, or two keys for the same thing.
    """
    found: dict[tuple[str, bool], Any] = {}
    for key, value in values.items():
        role = _role(str(key)) if len(values) > 1 else ("train", False)
        if value is None or role is None:
            log.info("%s: %s is left out", path, key)
        elif role in found:
            raise UserError(f"{path}: {key} and another key name the same thing: use the keys {KEYS}")
        else:
            found[role] = value
    splits = [split for split, labels in found if not labels]
    if "train" not in splits:
        raise UserError(
            f"{path} has the keys {', '.join(map(str, values))}, and no training images: use {KEYS}"
        )
    return {split: (found[split, False], found.get((split, True))) for split in splits}


def _role(key: str) -> tuple[str, bool] | None:
    """Return the split that a key names, and True for labels: x_train and train_images are ("train", False)."""
    words = re.findall(r"[a-z]+", key.lower())
    splits = [SPLITS[word] for word in words if word in SPLITS] or ["train"]
    rest = [word for word in words if word not in SPLITS]
    if len(splits) > 1 or len(rest) > 1 or (rest and rest[0] not in PIXELS + LABELS):
        return None
    return splits[0], bool(rest) and rest[0] in LABELS


def _array(value: Any) -> Array | None:
    if not isinstance(value, Tensor):
        return None
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _check_unpacked(path: Path) -> None:
    limit, packed = machine(), path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if limit is not None and 2 * size > limit:
        raise UserError(f"{path}: {size:,} bytes of unpacked arrays do not fit into half of the memory")
    if size > max(SMALL, MOST_PACKED * packed):
        raise UserError(
            f"{path}: {size:,} bytes of arrays are packed into {packed:,}, less than images take: "
            "if you trust the file, save it again with numpy.savez"
        )


@contextmanager
def _one_line(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except MISTAKES as error:
        said = " ".join(str(error).split())[:200]
        reason = "it is damaged, or holds Python objects" if "pickle" in said else said
        raise UserError(f"{path} is no {what} ({reason})") from error


def _idx_files(folder: Path) -> list[Path]:
    return [
        path
        for place in (folder, folder / "raw")
        for path in sorted(place.glob("*-images-idx3-ubyte"))
        if path.name.startswith(("train-", "t10k-", "test-"))
    ]


FILES: dict[str, Callable[[Path, Conversion], dict[str, Part]]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".pt": read_pt,
    ".pth": read_pt,
}
# The first reader whose files are there. Pictures are what remains.
FOLDERS: list[tuple[Callable[[Path], Any], Callable[[Path, Conversion], dict[str, Part]]]] = [
    (_idx_files, read_idx_folder),
    (is_hugging_face, read_hugging_face),
    (Path.is_dir, read_folder),
]
