"""Posteriors q(z|x): modules that map x to a distribution. Each sizes its own network."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentlab.nn import NetworkFactory, Shape
from latentlab.precision import full_precision


class Posterior(nn.Module, ABC):
    """A variational posterior over latents of shape `event_shape`, given inputs of shape `in_shape`.

    Attributes:
        reparametrised: whether `rsample` of its distribution carries a path to the parameters.

    Args:
        in_shape: the shape of one input.
        event_shape: the shape of one latent.
    """

    reparametrised: ClassVar[bool] = True

    def __init__(self, in_shape: Shape, event_shape: Shape) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.event_shape = tuple(event_shape)

    @abstractmethod
    def forward(self, x: Tensor) -> Distribution:
        """q(z|x) for x (*, *in_shape), batch shape *."""


PosteriorFactory = Callable[..., Posterior]


class DiagonalNormalPosterior(Posterior):
    r"""The mean-field normal $q(z|x) = \mathcal N(z; \mu(x), \mathrm{diag}\,\sigma(x)^2)$ (Kingma and Welling 2014, eq. 9).

    The network returns $\mu$ and $\log\sigma$.

    Args:
        network: makes the network of the given input and output shapes.
        in_shape: the shape of one input.
        latent_dim: the number of latents.
    """

    def __init__(self, network: NetworkFactory, in_shape: Shape, latent_dim: PositiveInt) -> None:
        super().__init__(in_shape, (latent_dim,))
        self.network = network(self.in_shape, (2, latent_dim))

    def forward(self, x: Tensor) -> Independent:
        """q(z|x) for x (*, *in_shape), batch shape *."""
        loc, log_scale = full_precision(self.network(x)).unbind(-2)
        return Independent(Normal(loc, log_scale.exp()), 1)
