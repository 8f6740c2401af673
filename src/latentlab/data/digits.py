"""Scikit-learn's digits: real, small and installed with the library."""

from dataclasses import KW_ONLY, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt
from torch import Tensor
from torch.nn.functional import interpolate

from latentlab.data.images import ImageData, Images, Splits

TEST_SIZE = 270


@dataclass(eq=False, repr=False)
class Digits(ImageData):
    """1,797 handwritten digits of 8 x 8 pixels and 17 grey levels, resized to 28 x 28.

    From the UCI repository (Alpaydin and Kaynak, 1998, https://doi.org/10.24432/C50P49). One fixed shuffle splits
    them into 1,257 / 270 / 270 by default. The last 270 are always the test set.
    """

    _: KW_ONLY
    val_size: NonNegativeInt = 270

    name = "Digits"

    def read(self) -> Splits:
        pixels, labels = load()
        # The stream of RandomState is the same in all versions of NumPy.
        order = np.random.RandomState(0).permutation(len(labels))
        x = resize(torch.from_numpy(pixels[order]).float().view(-1, 1, 8, 8))
        y = torch.from_numpy(labels[order]).long()
        return Splits(Images(x[:-TEST_SIZE], y[:-TEST_SIZE]), Images(x[-TEST_SIZE:], y[-TEST_SIZE:]))


def load() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Load the pixels (N, 64) and the labels (N,) of scikit-learn's file, as its `load_digits` does.

    The file is read without scikit-learn, which takes half a second to import, unless a version of it has moved the
    file.
    """
    spec = find_spec("sklearn")
    file = Path(spec.origin if spec and spec.origin else "").parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        rows = np.loadtxt(file, delimiter=",")
        return rows[:, :-1], rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def resize(pixels: Tensor) -> Tensor:
    """Resize levels 0..16, float (N, 1, 8, 8), to uint8 (N, 1, 28, 28), by bicubic interpolation, clamped."""
    large = interpolate(pixels, size=(28, 28), mode="bicubic", align_corners=False)
    return large.mul(255 / 16).round().clamp(0, 255).to(torch.uint8)
