"""Categorical pixels."""

import torch
from torch import Tensor
from torch.distributions import Independent

from latentlab.distributions import LevelCategorical
from latentlab.likelihoods.base import Likelihood, levels_of
from latentlab.nn import NetworkFactory, Shape, full_precision
from latentlab.protocols import Protocol


class CategoricalLikelihood(Likelihood):
    r"""Independent pixels of n levels k / (n - 1), $P(x_d = k/(n-1)\,|\,z) = \mathrm{softmax}(\eta_d(z))_k$.

    The network returns n logits $\eta_d$ for each pixel and channel (van den Oord et al. 2016, section 2.2). Levels
    have no order: the model learns which of them are close.

    Args:
        network: makes the network for the given input and output shapes.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
        protocol: the protocol of the data, which sets n. None for 256.
        initialise_bias: True to add a constant offset to the logits, the log frequencies of the levels of each pixel in
            the training images. Each level counts once more than it occurs.
    """

    levels: int
    offset: Tensor | None

    def __init__(
        self,
        network: NetworkFactory,
        in_shape: Shape,
        x_shape: Shape,
        protocol: Protocol | None = None,
        initialise_bias: bool = False,
    ) -> None:
        super().__init__(in_shape, x_shape)
        self.levels = levels_of(protocol)
        shape = (self.levels, *self.x_shape)
        self.network = network(self.in_shape, shape)
        self.register_buffer("offset", torch.zeros(shape) if initialise_bias else None)

    def forward(self, z: Tensor) -> Independent:
        dims = len(self.x_shape)
        logits = full_precision(self.network(z))
        located = logits if self.offset is None else logits + self.offset
        return Independent(LevelCategorical(located.movedim(-1 - dims, -1)), dims)

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        if self.offset is not None:
            k = (images * (self.levels - 1)).round()
            counts = torch.stack([(k == level).sum(0) for level in range(self.levels)])
            self.offset.copy_(((counts + 1) / (len(images) + self.levels)).log())
