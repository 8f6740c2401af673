"""Scikit-learn's digits: real, small and installed with the library."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
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
        from sklearn.datasets import load_digits  # late, as the other data sets need no scikit-learn

        pixels, labels = load_digits(return_X_y=True)
        # The stream of RandomState is the same in all versions of NumPy.
        order = np.random.RandomState(0).permutation(len(labels))
        x = resize(torch.from_numpy(pixels[order]).float().view(-1, 1, 8, 8))
        y = torch.from_numpy(labels[order]).long()
        return Splits(Images(x[:-TEST_SIZE], y[:-TEST_SIZE]), Images(x[-TEST_SIZE:], y[-TEST_SIZE:]))


def resize(pixels: Tensor) -> Tensor:
    """Resize levels 0..16, float (N, 1, 8, 8), to uint8 (N, 1, 28, 28), by bicubic interpolation, clamped."""
    large = interpolate(pixels, size=(28, 28), mode="bicubic", align_corners=False)
    return large.mul(255 / 16).round().clamp(0, 255).to(torch.uint8)
