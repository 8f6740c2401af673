"""Protocols: maps from stored pixels, 0..255, to the x that a model observes.

A protocol maps a batch of uint8 pixels to float32 of the same shape. Random protocols draw from the given generator:
afresh for every training batch, once with a fixed seed for validation and test.
Bounds under different protocols cannot be compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

Map = Callable[[Any, Tensor, Generator], Tensor]


def deterministic(call: Map) -> Map:
    """Mark the map of a protocol that draws nothing, so that no generator is seeded for it."""
    call.deterministic = True  # type: ignore[attr-defined]
    return call


class Protocol(ABC):
    r"""A map x = f(pixels, noise).

    Attributes:
        name: the word recorded with every result.
        levels: the number of values that a pixel takes (2, 16 or 256), or None for a density on [0, 1].
        bits_offset: the constant c in the bits per dimension $-b / (D \ln 2) + c$ of the stored pixels, for a bound b,
            or None for a density without bits per dimension.
        binary_source: True if the stored pixels are already 0 and 1, instead of 0..255.
        remark: a caution that is reported with every bound, "" for none.
    """

    name: ClassVar[str]
    levels: ClassVar[int | None]
    bits_offset: ClassVar[float | None]
    binary_source: ClassVar[bool] = False
    remark: ClassVar[str] = ""

    @property
    def prefix(self) -> str:
        """The word in front of the name of a data set, as in `binarised_mnist`."""
        return self.name

    @property
    def random(self) -> bool:
        """True if the map may draw from its generator."""
        return not getattr(type(self).__call__, "deterministic", False)

    @abstractmethod
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Map uint8 pixels (*) to float32 (*), with a generator on the same device."""

    def counted(self) -> "Protocol":
        """The protocol of the same x as discrete values, if it takes finitely many."""
        return self


class Threshold(Protocol):
    """x = 1 where pixel / 255 > 0.5, else 0."""

    name = "threshold"
    prefix = "binarised"
    levels = 2
    bits_offset = 0.0

    @deterministic
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return images.gt(127).float()


class Dynamic(Protocol):
    """x ~ Bernoulli(pixel / 255), as in Burda et al. (2016), https://arxiv.org/abs/1509.00519, section 5."""

    name = "dynamic"
    levels = 2
    bits_offset = 0.0

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        # r is uniform on 0..254, so that P(r < pixel) = pixel / 255 exactly.
        r = torch.empty_like(images).random_(0, 255, generator=generator)
        return images.gt(r).float()


class Static(Protocol):
    """x = pixel, for images stored as 0 and 1."""

    name = "static"
    prefix = ""  # a set stored as 0 and 1 has no other protocol
    levels = 2
    bits_offset = 0.0
    binary_source = True

    @deterministic
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return images.float()


class Continuous(Protocol):
    """x = pixel / 255 in [0, 1], scored as continuous values, whose densities have no bits per dimension."""

    name = "continuous"
    levels = None
    bits_offset = None
    remark = (
        "protocol=continuous: a density of discrete grey levels has no bits per dimension and no upper limit; "
        "compare its nats only under this protocol, or use protocol=dequantised"
    )

    @deterministic
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return torch.div(images, 255)

    def counted(self) -> "Discrete":
        return Discrete()


class Dequantised(Protocol):
    r"""x = (pixel + u) / 256 in [0, 1), u ~ U[0, 1).

    $\log P(\mathrm{pixels}) \geq E_u[\log p(x)] - D \ln 256$, hence the offset of 8 bits per dimension (Theis et al.
    2016, https://arxiv.org/abs/1511.01844, section 3.1).
    """

    name = "dequantised"
    levels = None
    bits_offset = 8.0

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        # u is a multiple of 2^-16: pixel + u is exact in float32 (24 bits) and cannot round up to pixel + 1.
        u = torch.empty(images.shape, device=images.device).random_(0, 2**16, generator=generator)
        return u.div_(2**16).add_(images).div_(256)


class Discrete(Protocol):
    """x = pixel / 255, scored as one of the 256 values k / 255."""

    name = "discrete"
    levels = 256
    bits_offset = 0.0

    @deterministic
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return torch.div(images, 255)


class Real(Protocol):
    """Vectors x of real numbers, scored by their density."""

    name = "real"
    levels = None
    bits_offset = None

    @deterministic
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return images.float()


class FourBit(Protocol):
    """x = floor(pixel / 16) / 15, scored as one of the 16 values k / 15."""

    name = "four_bit"
    levels = 16
    bits_offset = 0.0

    @deterministic
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return images.div(16, rounding_mode="floor").float() / 15


PROTOCOLS: tuple[type[Protocol], ...] = (
    *(Threshold, Dynamic, Static, Continuous, Dequantised, Discrete),
    FourBit,
)
