"""Discretised logistic pixels."""

from collections.abc import Sequence
from math import log

from pydantic import PositiveFloat
from torch import Tensor

from latentlab.distributions import DiscretisedLogistic
from latentlab.likelihoods.base import PixelLikelihood
from latentlab.nn import NetworkFactory, Shape


class DiscretisedLogisticLikelihood(PixelLikelihood):
    r"""Independent pixels of 256 levels k / 255, each with a `DiscretisedLogistic` distribution.

    Salimans et al. 2017, eq. 2, with one component. The network returns the location $\mu$ and v. The scale is
    $s = s_{\min} + s_0 e^{v}$.

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
        initialise_bias: see `PixelLikelihood`.
        min_scale: $s_{\min}$, in the units of x. One level is 1 / 255.
        initial_scale: $s_0$.
    """

    levels = 256
    num_parameters = 2

    def __init__(
        self,
        network: NetworkFactory,
        in_shape: Shape,
        x_shape: Shape,
        initialise_bias: bool = False,
        min_scale: PositiveFloat = 0.001,
        initial_scale: PositiveFloat = 0.1,
    ) -> None:
        super().__init__(network, in_shape, x_shape, initialise_bias)
        self.min_scale = min_scale
        self.initial = log(initial_scale)

    def pixels(self, parameters: Sequence[Tensor]) -> DiscretisedLogistic:
        return DiscretisedLogistic(parameters[0], self.min_scale + (parameters[1] + self.initial).exp())

    def link(self, mean: Tensor) -> Tensor:
        return mean
