"""Posteriors q(z|x): modules that map x to a distribution of the latents."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import exp
from typing import Annotated, ClassVar

import torch
import zuko
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, Transform

from latentlab.distributions import GumbelSoftmax, TransformedNormal
from latentlab.nn import NetworkFactory, Shape, full_precision, keep_full_precision


class Posterior(nn.Module, ABC):
    """A variational posterior over latents of shape `event_shape`, given inputs of shape `in_shape`.

    Attributes:
        reparametrised: True if draws carry a gradient path to the parameters.
        discrete: True if latents are one-hot. A gradient path then leads through a relaxation (see `trace.draw`).
        sees_images: True if inputs are images in [0, 1], False if they are latents of a lower layer.

    Args:
        in_shape: the shape of one input.
        event_shape: the shape of one latent.
    """

    reparametrised: ClassVar[bool] = True
    discrete: ClassVar[bool] = False
    sees_images: bool = True

    def __init__(self, in_shape: Shape, event_shape: Shape) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.event_shape = tuple(event_shape)

    @abstractmethod
    def forward(self, x: Tensor) -> Distribution:
        """q(z|x) for x (*, *in_shape), batch shape *."""

    def anneal(self, step: int) -> None:
        """Set everything that changes with the training step. Called before each step."""


PosteriorFactory = Callable[..., Posterior]


class DiagonalNormalPosterior(Posterior):
    r"""The diagonal normal $q(z|x) = \mathcal N(z; \mu(x), \mathrm{diag}\,\sigma(x)^2)$.

    Kingma and Welling 2014, eq. 9; the network returns $\mu$ and $\log\sigma$.

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one input.
        latent_dim: the number of latents.
    """

    def __init__(self, network: NetworkFactory, in_shape: Shape, latent_dim: PositiveInt) -> None:
        super().__init__(in_shape, (latent_dim,))
        self.network = network(self.in_shape, (2, latent_dim))

    def forward(self, x: Tensor) -> Independent:
        loc, log_scale = full_precision(self.network(x)).unbind(-2)
        return Independent(Normal(loc, log_scale.exp()), 1)


class FullRankNormalPosterior(Posterior):
    r"""The full-covariance normal $q(z|x) = \mathcal N(z; \mu(x), L(x) L(x)^\top)$.

    Kingma and Welling 2019, section 2.5.1. For D latents the network returns D (D + 3) / 2 numbers: $\mu$,
    $\log \mathrm{diag}\,L$, and the entries of L below its diagonal, row by row.

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one input.
        latent_dim: the number D of latents.
    """

    below: Tensor

    def __init__(self, network: NetworkFactory, in_shape: Shape, latent_dim: PositiveInt) -> None:
        super().__init__(in_shape, (latent_dim,))
        self.network = network(self.in_shape, (latent_dim * (latent_dim + 3) // 2,))
        below = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("below", below, persistent=False)

    def forward(self, x: Tensor) -> MultivariateNormal:
        size = self.event_shape[0]
        parameters = full_precision(self.network(x))
        loc, log_diagonal, entries = parameters.split([size, size, self.below.shape[1]], -1)
        scale_tril = log_diagonal.exp().diag_embed()
        scale_tril[..., self.below[0], self.below[1]] = entries
        return MultivariateNormal(loc, scale_tril=scale_tril)


class FlowPosterior(Posterior, ABC):
    r"""A normal distribution of u that a normalising flow transforms, $z = f(u; h(x))$.

    The network returns $\mu$ and $\log\sigma$ of u, and the context h (Kingma et al. 2016, algorithm 1).

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one input.
        latent_dim: the number D of latents.
        flow: makes a flow of D features and C context features, such as `zuko.flows.MAF` or `NSF`.
        context: the number C of context features.
    """

    def __init__(
        self,
        network: NetworkFactory,
        in_shape: Shape,
        latent_dim: PositiveInt,
        flow: Callable[[int, int], zuko.flows.Flow] = zuko.flows.MAF,
        context: PositiveInt = 32,
    ) -> None:
        super().__init__(in_shape, (latent_dim,))
        self.sizes = [latent_dim, latent_dim, context]
        self.network = network(self.in_shape, (sum(self.sizes),))
        self.flow = flow(latent_dim, context).transform
        keep_full_precision(self.flow)

    @abstractmethod
    def transform(self, context: Tensor) -> Transform:
        """The map from u to z for context features (*, C)."""

    def forward(self, x: Tensor) -> TransformedNormal:
        loc, log_scale, context = full_precision(self.network(x)).split(self.sizes, -1)
        base = Independent(Normal(loc, log_scale.exp()), 1)
        return TransformedNormal(base, self.transform(context))


class IAFPosterior(FlowPosterior):
    """An inverse autoregressive flow (Kingma et al. 2016).

    A draw and its density take one pass. The density of another z takes D passes for each transform. `objective=stl`,
    other objectives that score draws twice, and `prior=vamp` need it.
    """

    def transform(self, context: Tensor) -> Transform:
        return self.flow(context)


class MAFPosterior(FlowPosterior):
    """A masked autoregressive flow (Papamakarios et al. 2017).

    The density of any z takes one pass. A draw takes D passes for each transform.
    """

    def transform(self, context: Tensor) -> Transform:
        return self.flow(context).inv


class GumbelSoftmaxPosterior(Posterior):
    r"""L independent one-hot vectors of C categories, $q(z|x) = \prod_l \mathrm{Cat}(z_l; \pi_l(x))$.

    Pathwise objectives draw z from the Gumbel-softmax relaxation at temperature $\tau$. log q, entropy and KL stay
    categorical. Training then maximises the ELBO with relaxed draws inserted (Jang et al. 2017, section 3). This is not
    a bound, and not the ELBO of a relaxed model (Maddison et al. 2017). In validation, test and score-function
    objectives z is one-hot, and the bound is exact. The temperature at a training step is
    $\max(\tau_{\min}, \tau e^{-r \cdot \mathrm{step}})$ with the annealing rate r.

    Args:
        network: makes the network for the given input and output shapes. It returns logits (L, C).
        in_shape: the shape of one input.
        latent_dim: the number L of one-hot vectors.
        num_categories: the number C of categories.
        temperature: the initial $\tau$.
        annealing_rate: r, per training step, or 0 for a constant temperature.
        min_temperature: $\tau_{\min}$.
    """

    discrete = True

    def __init__(
        self,
        network: NetworkFactory,
        in_shape: Shape,
        latent_dim: PositiveInt,
        num_categories: Annotated[int, Field(ge=2)] = 10,
        temperature: PositiveFloat = 1.0,
        annealing_rate: NonNegativeFloat = 0.0,
        min_temperature: PositiveFloat = 0.5,
    ) -> None:
        super().__init__(in_shape, (latent_dim, num_categories))
        self.network = network(self.in_shape, self.event_shape)
        self.start = temperature
        self.annealing_rate = annealing_rate
        self.min_temperature = min(min_temperature, temperature)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Independent:
        return Independent(GumbelSoftmax(self.temperature, logits=full_precision(self.network(x))), 1)

    def anneal(self, step: int) -> None:
        self.temperature = max(self.min_temperature, self.start * exp(-self.annealing_rate * step))
