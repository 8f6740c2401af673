"""Scikit-learn's digits: real, small, and installed with the library."""

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn.functional import interpolate

from latentlab.protocols import Protocol

from .module import ImageData, Images, Splits

TEST_SIZE = 270


class Digits(ImageData):
    """1,797 handwritten digits of 8 x 8 pixels and 17 grey levels, resized to 28 x 28.

    From the UCI repository (Alpaydin and Kaynak, 1998, https://doi.org/10.24432/C50P49).
    A fixed shuffle, the same for every seed, then 1,257 / 270 / 270 by default. Needs no download.
    """

    name = "Digits"

    def __init__(
        self,
        protocol: Protocol,
        batch_size: PositiveInt = 128,
        eval_batch_size: PositiveInt = 1000,
        val_size: NonNegativeInt = 270,
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

    def read(self) -> Splits:
        """All digits; the last 270 of the shuffle are for test, whatever `val_size`."""
        from sklearn.datasets import load_digits  # imported here: other sets need no scikit-learn

        pixels, labels = load_digits(return_X_y=True)
        # RandomState's stream never changes between versions of numpy.
        order = np.random.RandomState(0).permutation(len(labels))
        x = resize(torch.from_numpy(pixels[order]).float().view(-1, 1, 8, 8))
        y = torch.from_numpy(labels[order]).long()
        return Splits(Images(x[:-TEST_SIZE], y[:-TEST_SIZE]), Images(x[-TEST_SIZE:], y[-TEST_SIZE:]))


def resize(pixels: Tensor) -> Tensor:
    """Levels 0..16, float (N, 1, 8, 8), to uint8 (N, 1, 28, 28), by bicubic interpolation, clamped."""
    large = interpolate(pixels, size=(28, 28), mode="bicubic", align_corners=False)
    return large.mul(255 / 16).round().clamp(0, 255).to(torch.uint8)
