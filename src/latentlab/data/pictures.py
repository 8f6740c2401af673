"""Picture files, such as PNG and JPEG, read by PIL."""

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from latentlab.data.arrays import Conversion, Part, check_memory
from latentlab.errors import UserError

log = logging.getLogger(__name__)

# A small file may hold a picture that takes much memory.
MOST_PIXELS = 2**25
# The formats of PIL that start no other program, as EPS does, and name their size before they are read.
FORMATS = (
    *("PNG", "JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "GIF", "TIFF"),
    *("BMP", "DIB", "PPM", "TGA", "PCX", "SGI"),
)

# The folders of a split, as torchvision's and Hugging Face's users name them.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def read_folder(folder: Path, convert: Conversion) -> dict[str, Part]:
    """Read a folder of pictures, in the layout of torchvision's ImageFolder and Hugging Face's imagefolder.

    The folders train, val and test are splits, and those below them, or below `folder` without splits, are classes.
    Classes and files are sorted by name. Files with an unknown ending are left out.

    Raises:
        UserError: for a folder without pictures, a file that is no picture, or mixed sizes.
    """
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[:1] != "."]
    splits = {SPLITS[path.name.lower()]: path for path in inside if path.name.lower() in SPLITS}
    if splits and len(splits) < len(inside):
        raise UserError(
            f"{folder} holds splits ({', '.join(path.name for path in splits.values())}) beside other folders"
        )
    found = {split: _labelled(path) for split, path in (splits or {"train": folder}).items()}
    names = sorted({name for paths in found.values() for name in paths.values() if name})
    number = sum(map(len, found.values()))
    return {
        split: Part(
            stacked(((str(path), path) for path in paths), len(paths), number, folder, convert),
            torch.tensor([names.index(name) if name else -1 for name in paths.values()]),
        )
        for split, paths in found.items()
    }


def visible(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files below a folder that match a pattern, sorted, without hidden ones and those in hidden folders."""
    for path in sorted(folder.glob(pattern)):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def is_picture(path: Path) -> bool:
    """Return True for the ending of a format that is read."""
    return Image.registered_extensions().get(path.suffix.lower()) in FORMATS


def _labelled(folder: Path) -> dict[Path, str]:
    """Return the pictures of a folder with the names of their classes, "" without classes."""
    every = list(visible(folder, "**/*"))
    pictures = [path for path in every if is_picture(path)]
    if not pictures:
        raise UserError(f"{folder} holds no picture: give a folder of files such as PNG or JPEG")
    if len(pictures) < len(every):
        log.info("%s: %d files that are no pictures are left out", folder, len(every) - len(pictures))
    paths = {path: "".join(path.relative_to(folder).parts[:-1][:1]) for path in pictures}
    unlabelled = [path for path, name in paths.items() if not name]
    if 0 < len(unlabelled) < len(paths):
        raise UserError(
            f"{unlabelled[0]} has no label, as it lies beside the folders of classes in {folder}: move it into one"
        )
    return paths


def stacked(
    pictures: Iterable[tuple[str, Path | bytes]],
    number: int,
    all_number: int,
    place: Any,
    convert: Conversion,
) -> Tensor:
    """Read pictures of one size into one tensor, uint8 (number, C, H, W).

    Args:
        pictures: the name and the file, or its bytes, of each.
        number: the number of pictures.
        all_number: the number of pictures in all splits.
        place: the folder, for messages.
        convert: the conversion of each.

    Raises:
        UserError: for a file that is no picture, or two sizes.
    """
    x, first = torch.empty(0), ""
    for index, (name, source) in enumerate(pictures):
        read = decoded(name, source)
        if index == 0:
            check_memory(all_number, convert.shape(read.shape), place)
        image = convert(read[None])[0]
        if index == 0:
            x, first = torch.empty(number, *image.shape, dtype=torch.uint8), name
        if image.shape != x.shape[1:]:
            raise _mixed(first, x.shape[1:], name, image.shape)
        x[index] = image
    return x


def _mixed(first: str, shape: Sequence[int], name: str, other: Sequence[int]) -> UserError:
    if shape[0] != other[0]:
        kinds = {1: "grey", 3: "in colour"}
        return UserError(
            f"{first} is {kinds[shape[0]]} and {name} is {kinds[other[0]]}: give data.channels=1 or data.channels=3"
        )
    sizes = [f"{height}x{width}" for _, height, width in (shape, other)]
    return UserError(
        f"{first} has {sizes[0]} pixels and {name} has {sizes[1]}: give one size to all, such as data.resize=[28,28]"
    )


def decoded(name: str, source: Path | bytes) -> Tensor:
    """Read a picture, grey or RGB, uint8 (1 or 3, H, W). Transparent pixels are white.

    Raises:
        UserError: if it is none.
    """
    try:
        with _opened(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            _check_size(file)
            image = _plain(ImageOps.exif_transpose(file))
            pixels = np.array(image)
    except Exception as error:  # the readers of PIL raise all kinds of errors
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} is no picture that can be read ({reason}): mend it, or move it elsewhere"
        ) from error
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)


def _opened(source: Path | io.BytesIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
        return Image.open(source, formats=FORMATS)


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels are more than {MOST_PIXELS:,}")


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have the mode {image.mode}, not 8 or 16 bits")
    if "A" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert(
            "L" if image.mode == "LA" else "RGB"
        )
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
