"""Discretised logistic pixels."""

from collections.abc import Sequence
from math import log

from pydantic import PositiveFloat
from torch import Tensor

from latentlab.distributions import DiscretisedLogistic
from latentlab.likelihoods.base import PixelLikelihood, levels_of
from latentlab.nn import NetworkFactory, Shape
from latentlab.protocols import Protocol


class DiscretisedLogisticLikelihood(PixelLikelihood):
    r"""Independent pixels of n levels k / (n - 1), each with a `DiscretisedLogistic` distribution.

    Salimans et al. 2017, eq. 2, with one component. The network returns the location $\mu$ and v. The scale is
    $s = s_{\min} + s_0 e^{v}$.

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
        initialise_bias: see `PixelLikelihood`.
        min_scale: $s_{\min}$, in the units of x. One of 256 levels is 1 / 255.
        initial_scale: $s_0$.
        protocol: the protocol of the data, which sets n. None for 256.
    """

    levels: int
    num_parameters = 2

    def __init__(
        self,
        network: NetworkFactory,
        in_shape: Shape,
        x_shape: Shape,
        initialise_bias: bool = False,
        min_scale: PositiveFloat = 0.001,
        initial_scale: PositiveFloat = 0.1,
        protocol: Protocol | None = None,
    ) -> None:
        super().__init__(network, in_shape, x_shape, initialise_bias)
        self.levels = levels_of(protocol)
        self.min_scale = min_scale
        self.initial = log(initial_scale)

    def pixels(self, parameters: Sequence[Tensor]) -> DiscretisedLogistic:
        scale = self.min_scale + (parameters[1] + self.initial).exp()
        return DiscretisedLogistic(parameters[0], scale, self.levels)

    def link(self, mean: Tensor) -> Tensor:
        return mean
