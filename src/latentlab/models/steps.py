"""Steps between neighbouring layers of a hierarchy: q(z_{l+1}|z_l) upwards, p(z_l|z_{l+1}) downwards."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentlab.errors import UserError
from latentlab.nn import NetworkFactory, Shape
from latentlab.posteriors import DiagonalNormalPosterior, PosteriorFactory

# The same map from a tensor to a normal, of whichever density: here of p(z_l|z_{l+1}) as well as of q.
DiagonalNormalConditional = DiagonalNormalPosterior


class Steps(nn.Module, ABC):
    """Conditionals of one layer given its neighbour; step l, from 0 on, is between the layers l + 1 and l + 2."""

    @abstractmethod
    def forward(self, z: Tensor, step: int) -> Distribution:
        """The conditional of a step, given latents (*, *source) of the layer it starts from, batch shape *."""


# Called with `sources` and `targets`, the shapes that each step starts from and leads to, and with the `inference`
# that the steps are paired with, where they lead down.
StepsFactory = Callable[..., Steps]


class SeparateSteps(Steps):
    """Learned conditionals, each with a network of its own.

    Args:
        sources: the shapes that each step starts from.
        targets: the shapes that each step leads to.
        network: makes the network of a conditional.
        conditional: makes a conditional, as it would a posterior.
        inference: not looked at.
    """

    def __init__(
        self,
        sources: Sequence[Shape],
        targets: Sequence[Shape],
        network: NetworkFactory,
        conditional: PosteriorFactory = DiagonalNormalConditional,
        inference: Any = None,
    ) -> None:
        super().__init__()
        self.conditionals = nn.ModuleList(
            conditional(network=network, in_shape=source, latent_dim=prod(target))
            for source, target in zip(sources, targets, strict=True)
        )

    def forward(self, z: Tensor, step: int) -> Distribution:
        """The conditional of a step, given latents (*, *source), batch shape *."""
        return self.conditionals[step](z)


class SharedSteps(Steps):
    """Learned conditionals between layers of D latents, with one network for all, told the step by its one-hot code.

    Args:
        sources: the shapes that each step starts from, all (D,).
        targets: the shapes that each step leads to, all (D,).
        network: makes the network of the conditional.
        conditional: makes the conditional, as it would a posterior.
        inference: not looked at.

    Raises:
        UserError: when the layers differ in shape.
    """

    codes: Tensor

    def __init__(
        self,
        sources: Sequence[Shape],
        targets: Sequence[Shape],
        network: NetworkFactory,
        conditional: PosteriorFactory = DiagonalNormalConditional,
        inference: Any = None,
    ) -> None:
        super().__init__()
        shapes = {*sources, *targets}
        if len(shapes) > 1:
            raise UserError(f"SharedSteps are between layers of one shape, and these have {sorted(shapes)}")
        self.register_buffer("codes", torch.eye(len(sources)), persistent=False)
        # A list of one, or of none where there is no step.
        self.conditionals = nn.ModuleList(
            conditional(network=network, in_shape=(prod(shape) + len(sources),), latent_dim=prod(shape))
            for shape in shapes
        )

    def forward(self, z: Tensor, step: int) -> Distribution:
        """The conditional of a step, given latents (*, D), batch shape *."""
        code = self.codes[step].expand(*z.shape[:-1], -1)
        return self.conditionals[0](torch.cat([z, code], dim=-1))
