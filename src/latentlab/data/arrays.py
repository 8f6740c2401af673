"""Arrays of pixels and labels as files hold them, made into stored images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from latentlab.errors import UserError
from latentlab.processes.machine import machine

Array = NDArray[Any]
# Images converted at a time, so that a conversion takes little memory.
CHUNK = 4096
# The numbers of such images at most, which an image larger than that may exceed, and rows of an image at a time.
NUMBERS = 2**24
ROWS = 256
# The largest height and width after a conversion.
LARGEST_SIDE = 4096
# Fractions that end between 1 and this are no grey levels 0..255, but perhaps [0, 1] with an overshoot of a resize.
DARK = 16
# The weights of red, green and blue in a grey level (ITU-R BT.601, as in PIL).
LUMA = (0.299, 0.587, 0.114)
GIB = 2**30


class Part(NamedTuple):
    """Images of a file, uint8 (N, C, H, W), and their labels, int64 (N,). A missing label is -1."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Conversion:
    """The changes to images as they are read.

    Attributes:
        resize: the height and the width after bilinear interpolation with antialiasing; None keeps them.
        channels: 1 for grey images, 3 for colour; None keeps them.
        invert: True to exchange black and white.
    """

    resize: Sequence[int] | None = None
    channels: int | None = None
    invert: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Convert images, uint8 (N, C, H, W)."""
        if self.channels == 1 and x.shape[1] == 3:
            x = torch.cat([_grey(rows) for rows in x.split(ROWS, 2)], 2)
        if self.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.resize is not None:
            x = torch.cat([_resized(channel, self.resize) for channel in x.split(1, 1)], 1)
        x = _rounded(x) if x.is_floating_point() else x
        return 255 - x if self.invert else x

    def shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image after the conversion."""
        channels, height, width = shape
        height, width = self.resize or (height, width)
        return self.channels or channels, height, width


def _grey(x: Tensor) -> Tensor:
    return (x * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return _rounded(interpolate(x.float(), tuple(size), mode="bilinear", antialias=True))


def _rounded(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)


def as_parts(
    arrays: Mapping[str, tuple[Array, Array | None]], place: Any, convert: Conversion
) -> dict[str, Part]:
    """Make the images and labels of each split. All splits follow one rule for their values.

    Args:
        arrays: the pixels and the labels of each split.
        place: the file, for messages.
        convert: the conversion of the images.

    Raises:
        UserError: for arrays that are no images or no labels.
    """
    images = {split: channels_first(x, place) for split, (x, _) in arrays.items()}
    for x in images.values():
        check_memory(len(x), convert.shape(x.shape[1:]), place)
    scale = scale_of(images.values(), place)
    return {
        split: Part(_converted(x, scale, convert), as_labels(arrays[split][1], len(x), place))
        for split, x in images.items()
    }


def _converted(x: Array, scale: int, convert: Conversion) -> Tensor:
    shape = convert.shape(x.shape[1:])
    found = torch.empty(len(x), *shape, dtype=torch.uint8)
    step = min(CHUNK, max(NUMBERS // max(prod(shape), prod(x.shape[1:])), 1))
    for start in range(0, len(x), step):
        pixels = np.rint(np.ascontiguousarray(x[start : start + step]) * scale).astype(np.uint8)
        found[start : start + step] = convert(torch.from_numpy(pixels))
    return found


def channels_first(x: Array, place: Any) -> Array:
    """View images (N, H, W), (N, C, H, W) or (N, H, W, C) as (N, C, H, W), for C = 1 or 3.

    Raises:
        UserError: for another shape, or no images.
    """
    if 0 in x.shape:
        raise UserError(f"{place} holds no images, but an array of shape {x.shape}")
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return x
    if x.ndim == 4 and x.shape[3] in (1, 3):
        return np.moveaxis(x, 3, 1)
    raise UserError(
        f"{place}: an array of shape {x.shape} is no set of images: give it the shape (N, H, W), (N, C, H, W) or "
        "(N, H, W, C), with C = 1 or 3"
    )


def scale_of(arrays: Iterable[Array], place: Any) -> int:
    """Return 255 or 1, the factor that takes the pixels of all arrays to 0..255.

    Bits, integers of only 0 and 1, and floats in [0, 1] have the factor 255. Other integers 0..255 and other floats in
    [0, 255] have the factor 1.

    Raises:
        UserError: for other values, fractions that exceed 1 by little, or splits with different factors.
    """
    highs = [_highest(x, place) for x in arrays]
    if max(highs) > 1 and any(0 < high <= 1 for high in highs):
        raise UserError(
            f"{place}: the pixels of one split end at {max(highs):g} and those of another at {min(highs):g}: "
            "give all splits one scale, 0..255 or [0, 1]"
        )
    return 255 if max(highs) <= 1 else 1


def _highest(x: Array, place: Any) -> float:
    """Return the largest of some pixels, after a check of their values."""
    rule = "give integers 0..255, bits, or floats in [0, 1] or [0, 255]"
    if x.dtype.kind not in "buif":
        raise UserError(f"{place}: pixels of type {x.dtype} follow no rule: {rule}")
    low, high = float(x.min()), float(x.max())
    if np.isnan(low):
        raise UserError(f"{place}: some pixels are NaN, no numbers: {rule}")
    if not (low >= 0 and high <= 255):
        raise UserError(f"{place}: pixels from {low:g} to {high:g} follow no rule: {rule}")
    if 1 < high < DARK and not _is_whole(x):
        raise UserError(
            f"{place}: fractions from {low:g} to {high:g} are neither in [0, 1] nor grey levels 0..255: "
            "clip or scale them to [0, 1]"
        )
    return high


def _is_whole(x: Array) -> bool:
    parts = (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))
    return x.dtype.kind != "f" or all((part == np.rint(part)).all() for part in parts)


def as_labels(y: Array | None, number: int, place: Any) -> Tensor:
    """Return labels, int64 (N,), of whole numbers (N,) or (N, 1). A missing label is -1, and all are without `y`.

    Raises:
        UserError: for other labels, or another number than `number`.
    """
    if y is None:
        return torch.full((number,), -1)
    flat = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    whole = flat.dtype.kind in "bui" or (flat.dtype.kind == "f" and bool((flat == np.rint(flat)).all()))
    if flat.ndim != 1 or not whole or (flat < -1).any():
        raise UserError(
            f"{place}: labels of shape {y.shape} and type {y.dtype} are not whole numbers (N,) from 0, or -1 for none"
        )
    if len(flat) != number:
        raise UserError(f"{place} holds {len(flat)} labels for {number} images")
    return torch.from_numpy(flat.astype(np.int64))


def check_memory(number: int, shape: Sequence[int], place: Any) -> None:
    """Refuse images, uint8 (number, *shape), that take more than half of the memory.

    Raises:
        UserError: with the options that take less.
    """
    limit, size = machine(), number * prod(shape)
    if limit is not None and 2 * size > limit:  # a batch, a shuffle and training take memory as well
        raise UserError(
            f"{place}: {number:,} images of {tuple(shape)} pixels take {size / GIB:.1f} GiB, and all are kept in the "
            f"{limit / GIB:.1f} GiB of memory here: give a smaller data.resize=[H,W]"
        )
