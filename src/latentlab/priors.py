"""Priors p(z): modules that return a distribution when called."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentlab.nn import Shape
from latentlab.posteriors import Posterior


class Prior(nn.Module, ABC):
    """A prior over latents of shape `event_shape`.

    Args:
        event_shape: the shape of one latent.
        posterior: the q(z|x) it is paired with; only a prior that is made of it looks at it.
    """

    def __init__(self, event_shape: Shape, posterior: Posterior | None = None) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    @abstractmethod
    def forward(self) -> Distribution:
        """p(z), with batch shape () and the event shape of one latent."""


PriorFactory = Callable[..., Prior]


class StandardNormalPrior(Prior):
    r"""The standard normal prior $p(z) = \mathcal N(z; 0, I)$."""

    zero: Tensor

    def __init__(self, event_shape: Shape, posterior: Posterior | None = None) -> None:
        super().__init__(event_shape, posterior)
        # A buffer, so that the distribution follows the module's device and dtype; nothing to save.
        self.register_buffer("zero", torch.zeros(self.event_shape), persistent=False)

    def forward(self) -> Independent:
        """N(0, I) over the event shape."""
        return Independent(Normal(self.zero, torch.ones_like(self.zero)), len(self.event_shape))
