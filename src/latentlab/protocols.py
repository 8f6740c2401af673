"""Protocols: how stored pixels, 0..255, become the x that a model sees.

A protocol maps uint8 pixels to float32 of the same shape, a whole batch at once. What is random is drawn from
the given generator: afresh for every training batch, one fixed and seeded draw for validation and test.
Bounds under different protocols cannot be compared.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor


class Protocol(ABC):
    r"""A rule x = f(pixels, noise), with what a reader needs to know to compare its bounds.

    name: the word recorded with every result.
    levels: how many values a pixel takes (2 or 256); None for a continuum.
    bits_offset: what to add to -bound / (D ln 2) to get bits per dimension of the stored, discrete data; None
        where the bound is on a density that has no such counterpart.
    binary_source: whether the stored pixels are 0 and 1 already, instead of 0..255.
    """

    name: ClassVar[str]
    levels: ClassVar[int | None]
    bits_offset: ClassVar[float | None]
    binary_source: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Uint8 pixels (*) to float32 (*); the generator is on the device of the pixels."""

    def counted(self) -> "Protocol":
        """The protocol of the same x that counts the values it takes, where they are finitely many."""
        return self


class Threshold(Protocol):
    """x = 1 where pixel / 255 > 0.5, else 0."""

    name = "threshold"
    levels = 2
    bits_offset = 0.0

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Uint8 pixels (*) to 0.0 and 1.0 (*); draws nothing."""
        return images.gt(127).float()


class Dynamic(Protocol):
    """x ~ Bernoulli(pixel / 255), as in Burda et al. (2016), https://arxiv.org/abs/1509.00519, section 5."""

    name = "dynamic"
    levels = 2
    bits_offset = 0.0

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Uint8 pixels (*) to a draw of 0.0 and 1.0 (*)."""
        # r is uniform on the 255 integers 0..254, so that P(r < pixel) = pixel / 255 exactly.
        r = torch.empty_like(images).random_(0, 255, generator=generator)
        return images.gt(r).float()


class Static(Protocol):
    """x = pixel, for images that were binarised once and stored as 0 and 1."""

    name = "static"
    levels = 2
    bits_offset = 0.0
    binary_source = True

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Uint8 pixels 0 and 1 (*) to 0.0 and 1.0 (*); draws nothing."""
        return images.float()


class Continuous(Protocol):
    """x = pixel / 255 in [0, 1], treated as a continuum: its densities have no bits per dimension."""

    name = "continuous"
    levels = None
    bits_offset = None

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Uint8 pixels (*) to [0, 1] (*); draws nothing."""
        return torch.div(images, 255)

    def counted(self) -> "Discrete":
        """The 256 values k / 255."""
        return Discrete()


class Dequantised(Protocol):
    """x = (pixel + u) / 256 in [0, 1), u ~ U[0, 1).

    log P(pixel) >= E_u[log p(x)] - D ln 256, hence the 8 bits per dimension (Theis et al., 2016,
    https://arxiv.org/abs/1511.01844, section 3.1).
    """

    name = "dequantised"
    levels = None
    bits_offset = 8.0

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Uint8 pixels (*) to a draw in [0, 1) (*), with floor(256 x) = pixel."""
        # u on a grid of 2^-16: pixel + u fits the 24 bits of a float32, and is never rounded up to pixel + 1.
        u = torch.empty(images.shape, device=images.device).random_(0, 2**16, generator=generator)
        return u.div_(2**16).add_(images).div_(256)


class Discrete(Protocol):
    """x = pixel / 255, one of 256 values k / 255, for likelihoods that are probabilities of those values."""

    name = "discrete"
    levels = 256
    bits_offset = 0.0

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Uint8 pixels (*) to k / 255 (*); draws nothing."""
        return torch.div(images, 255)


PROTOCOLS: tuple[type[Protocol], ...] = (Threshold, Dynamic, Static, Continuous, Dequantised, Discrete)
