"""Likelihoods p(x|z): modules that map z to a distribution over images. Each sizes its own network."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Independent

from latentlab.data.protocols import PROTOCOLS, Protocol
from latentlab.errors import UserError
from latentlab.nn import NetworkFactory, Shape
from latentlab.precision import full_precision


class Likelihood(nn.Module, ABC):
    """A likelihood of images of shape `x_shape`, given latents of shape `in_shape`.

    Attributes:
        levels: the number of values that a pixel may take under it, None for a density.

    Args:
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
    """

    levels: ClassVar[int | None]

    def __init__(self, in_shape: Shape, x_shape: Shape) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.x_shape = tuple(x_shape)

    @abstractmethod
    def forward(self, z: Tensor) -> Distribution:
        """p(x|z) for z (*, *in_shape), batch shape *."""

    def check(self, protocol: Protocol) -> None:
        """Refuse data whose pixels take other values than those it scores: its numbers would mean nothing.

        Raises:
            UserError: with the reason and the protocols that work.
        """
        if protocol.levels != self.levels:
            fitting = [kind.name for kind in PROTOCOLS if kind.levels == self.levels]
            raise UserError(
                f"{type(self).__name__} scores pixels of {_values(self.levels)}, but protocol={protocol.name} gives "
                f"{_values(protocol.levels)}: choose another likelihood, or protocol={' or '.join(fitting)}"
            )


def _values(levels: int | None) -> str:
    return "any value in [0, 1] (a density)" if levels is None else f"{levels} values"


LikelihoodFactory = Callable[..., Likelihood]


class BernoulliLikelihood(Likelihood):
    r"""Independent pixels, $p(x|z) = \prod_d \mathrm{Bern}(x_d; \sigma(\eta_d(z)))$, for x in {0, 1}.

    Kingma and Welling 2014, eq. 11; the network returns the logits $\eta$.

    Args:
        network: makes the network of the given input and output shapes.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
    """

    levels = 2

    def __init__(self, network: NetworkFactory, in_shape: Shape, x_shape: Shape) -> None:
        super().__init__(in_shape, x_shape)
        self.network = network(self.in_shape, self.x_shape)

    def forward(self, z: Tensor) -> Independent:
        """p(x|z) for z (*, *in_shape), batch shape *."""
        return Independent(Bernoulli(logits=full_precision(self.network(z))), len(self.x_shape))


class ContinuousBernoulliLikelihood(Likelihood):
    r"""Independent pixels in [0, 1], $p(x|z) = \prod_d C(\lambda_d) \lambda_d^{x_d} (1 - \lambda_d)^{1 - x_d}$.

    Loaiza-Ganem and Cunningham 2019, eq. 6 and 7; the network returns the logits of $\lambda$.

    Args:
        network: makes the network of the given input and output shapes.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
    """

    levels = None

    def __init__(self, network: NetworkFactory, in_shape: Shape, x_shape: Shape) -> None:
        super().__init__(in_shape, x_shape)
        self.network = network(self.in_shape, self.x_shape)

    def forward(self, z: Tensor) -> Independent:
        """p(x|z) for z (*, *in_shape), batch shape *."""
        return Independent(ContinuousBernoulli(logits=full_precision(self.network(z))), len(self.x_shape))
