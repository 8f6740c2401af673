"""Gaussian pixels with a fixed, learned or predicted variance."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.distributions import Normal

from latentlab.likelihoods.base import PixelLikelihood
from latentlab.nn import NetworkFactory, Shape


class GaussianLikelihood(PixelLikelihood, ABC):
    r"""Independent Gaussian pixels, $p(x|z) = \prod_d \mathcal N(x_d; \mu_d(z), \sigma_d^2)$.

    The network's first output is $\mu$, which is not bounded: a linear network gives a linear model.
    """

    levels = None
    unbounded = True

    def link(self, mean: Tensor) -> Tensor:
        return mean


class GaussianFixedLikelihood(GaussianLikelihood):
    r"""Gaussian pixels with one fixed variance, $\mathcal N(x; \mu(z), \sigma^2 I)$.

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
        initialise_bias: see `PixelLikelihood`.
        variance: $\sigma^2$.
    """

    def __init__(
        self,
        network: NetworkFactory,
        in_shape: Shape,
        x_shape: Shape,
        initialise_bias: bool = False,
        variance: PositiveFloat = 0.02,
    ) -> None:
        super().__init__(network, in_shape, x_shape, initialise_bias)
        self.scale = variance**0.5

    def pixels(self, parameters: Sequence[Tensor]) -> Normal:
        return Normal(parameters[0], parameters[0].new_tensor(self.scale))


class GaussianLearnedLikelihood(GaussianLikelihood, ABC):
    r"""Gaussian pixels with a learned variance $\sigma^2 = \sigma_{\min}^2 + e^{v}$, the same for all images.

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
        initialise_bias: see `PixelLikelihood`.
        min_scale: $\sigma_{\min} > 0$, which keeps the density of a constant pixel finite.
        initial_scale: the initial $e^{v/2}$.
    """

    def __init__(
        self,
        network: NetworkFactory,
        in_shape: Shape,
        x_shape: Shape,
        initialise_bias: bool = False,
        min_scale: PositiveFloat = 0.01,
        initial_scale: PositiveFloat = 0.2,
    ) -> None:
        super().__init__(network, in_shape, x_shape, initialise_bias)
        self.min_scale = min_scale
        self.log_variance = nn.Parameter(torch.full(self.variance_shape, 2 * log(initial_scale)))

    @property
    @abstractmethod
    def variance_shape(self) -> Shape:
        """The shape of v."""

    def pixels(self, parameters: Sequence[Tensor]) -> Normal:
        return Normal(parameters[0], _bounded_scale(self.log_variance, self.min_scale))


def _bounded_scale(log_variance: Tensor, min_scale: float) -> Tensor:
    return (min_scale**2 + log_variance.exp()).sqrt()


class GaussianSharedLikelihood(GaussianLearnedLikelihood):
    """Gaussian pixels with one learned variance, as in probabilistic PCA (Tipping and Bishop 1999, eq. 2)."""

    @property
    def variance_shape(self) -> Shape:
        return ()


class GaussianPerPixelLikelihood(GaussianLearnedLikelihood):
    """Gaussian pixels with a learned variance for each pixel."""

    @property
    def variance_shape(self) -> Shape:
        return self.x_shape


class GaussianPredictedLikelihood(GaussianLikelihood):
    r"""Gaussian pixels with a predicted variance $\sigma(z)^2 = \sigma_{\min}^2 + \sigma_0^2 e^{v(z)}$.

    Kingma and Welling 2014, eq. 12. The network returns $\mu$ and v.

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
        initialise_bias: see `PixelLikelihood`.
        min_scale: $\sigma_{\min} > 0$, which keeps the density of an exactly predicted pixel finite.
        initial_scale: $\sigma_0$.
    """

    num_parameters = 2

    def __init__(
        self,
        network: NetworkFactory,
        in_shape: Shape,
        x_shape: Shape,
        initialise_bias: bool = False,
        min_scale: PositiveFloat = 0.01,
        initial_scale: PositiveFloat = 0.2,
    ) -> None:
        super().__init__(network, in_shape, x_shape, initialise_bias)
        self.min_scale = min_scale
        self.initial = 2 * log(initial_scale)

    def pixels(self, parameters: Sequence[Tensor]) -> Normal:
        return Normal(parameters[0], _bounded_scale(parameters[1] + self.initial, self.min_scale))
