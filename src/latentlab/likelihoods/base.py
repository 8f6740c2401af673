"""The interface of likelihoods, and the base of those with independent pixels."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from latentlab.errors import UserError
from latentlab.nn import NetworkFactory, Shape, full_precision
from latentlab.protocols import PROTOCOLS, Protocol, Real

logger = logging.getLogger(__name__)


class Likelihood(nn.Module, ABC):
    """A likelihood of images of shape `x_shape`, given latents of shape `in_shape`.

    Attributes:
        levels: the number of values that a pixel can take, or None for a density on [0, 1].
        unbounded: True for a density of any real numbers.

    Args:
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
    """

    levels: int | None
    unbounded: bool = False

    def __init__(self, in_shape: Shape, x_shape: Shape) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.x_shape = tuple(x_shape)

    @abstractmethod
    def forward(self, z: Tensor) -> Distribution:
        """p(x|z) for z (*, *in_shape), batch shape *."""

    def initialise(self, images: Tensor) -> None:
        """Adapt to training images (N, *x_shape) before training. Draws nothing."""

    def check(self, protocol: Protocol) -> None:
        """Refuse data whose pixels take other values than the likelihood scores.

        A density of values that are in fact discrete gives a warning.

        Raises:
            UserError: with the reason and the protocols that work.
        """
        if protocol.levels != self.levels:
            if isinstance(protocol, Real):
                raise self._of_vectors(protocol)
            fitting = [kind.name for kind in PROTOCOLS if kind.levels == self.levels]
            raise UserError(
                f"{type(self).__name__} scores pixels of {_values(self.levels)}, but protocol={protocol.name} gives "
                f"{_values(protocol.levels)}: choose another likelihood, or protocol={' or '.join(fitting)}"
            )
        if isinstance(protocol, Real) and not self.unbounded:
            raise self._of_vectors(protocol)
        if protocol.remark:
            logger.warning(protocol.remark)

    def _of_vectors(self, protocol: Protocol) -> UserError:
        return UserError(
            f"{type(self).__name__} scores pixels, and protocol={protocol.name} gives vectors of any numbers: "
            "choose likelihood=gaussian_shared or another Gaussian"
        )


def levels_of(protocol: Protocol | None) -> int:
    """Return the number of levels of a likelihood of discrete pixels: that of the protocol if it has one, else 256."""
    return (protocol and protocol.levels) or 256


def _values(levels: int | None) -> str:
    return "any value in [0, 1] (a density)" if levels is None else f"{levels} values"


LikelihoodFactory = Callable[..., Likelihood]


class PixelLikelihood(Likelihood, ABC):
    r"""Pixels independent given z, $p(x|z) = \prod_d p(x_d; \theta_d(z))$, with one network for all parameters.

    Attributes:
        num_parameters: the number P of parameters of a pixel. The first one sets the mean.

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
        initialise_bias: True to add a constant offset to the first parameter, computed from the training images, so
            that the mean of each pixel starts near its mean over these images (Burda et al. 2016).
    """

    num_parameters: ClassVar[int] = 1
    offset: Tensor | None

    def __init__(
        self, network: NetworkFactory, in_shape: Shape, x_shape: Shape, initialise_bias: bool = False
    ) -> None:
        super().__init__(in_shape, x_shape)
        self.network = network(self.in_shape, (self.num_parameters, *self.x_shape))
        self.register_buffer("offset", torch.zeros(self.x_shape) if initialise_bias else None)

    @abstractmethod
    def pixels(self, parameters: Sequence[Tensor]) -> Distribution:
        """The distribution of each pixel, batch shape (*, *x_shape), from P parameters of that shape."""

    @abstractmethod
    def link(self, mean: Tensor) -> Tensor:
        """The first parameter of a pixel with the given mean, of the same shape."""

    def forward(self, z: Tensor) -> Independent:
        dims = len(self.x_shape)
        parameters = full_precision(self.network(z))
        # The gradient of `unbind` copies the images of one parameter, and that of `squeeze` does not.
        one = self.num_parameters == 1
        first, *others = [parameters.squeeze(-1 - dims)] if one else parameters.unbind(-1 - dims)
        located = first if self.offset is None else first + self.offset
        return Independent(self.pixels([located, *others]), dims)

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        if self.offset is not None:
            self.offset.copy_(self.link(images.mean(0)))
