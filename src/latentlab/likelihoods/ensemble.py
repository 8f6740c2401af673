"""An ensemble of decoders as one likelihood."""

from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from latentlab.likelihoods.base import Likelihood, LikelihoodFactory
from latentlab.nn import NetworkFactory, Shape
from latentlab.protocols import Protocol


class EnsembleLikelihood(Likelihood):
    r"""An ensemble of M decoders, $p_1(x|z), \dots, p_M(x|z)$, with one encoder (Syrota et al. 2024).

    In training, each call draws one member at random. In evaluation, a call returns all of them (see `Members`): the
    bound is then the mean of the members' bounds, which the training bound estimates without bias.

    Args:
        likelihood: makes a member.
        decoders: the number M of members.
        network: makes the network of a member.
        in_shape: the shape of one latent.
        x_shape: the shape of one image.
    """

    def __init__(
        self,
        likelihood: LikelihoodFactory,
        decoders: PositiveInt,
        network: NetworkFactory,
        in_shape: Shape,
        x_shape: Shape,
    ) -> None:
        super().__init__(in_shape, x_shape)
        made = [likelihood(network=network, in_shape=in_shape, x_shape=x_shape) for _ in range(decoders)]
        self.members = nn.ModuleList(made)
        self.levels, self.unbounded = made[0].levels, made[0].unbounded

    def forward(self, z: Tensor) -> Distribution:
        if self.training:
            drawn: Distribution = self.decoders[int(torch.randint(len(self.members), ()))](z)
            return drawn
        return Members([member(z) for member in self.decoders])

    @property
    def decoders(self) -> list[Likelihood]:
        """The members."""
        return list(self.members)  # type: ignore[arg-type]

    def initialise(self, images: Tensor) -> None:
        for member in self.decoders:
            member.initialise(images)

    def check(self, protocol: Protocol) -> None:
        self.decoders[0].check(protocol)


class Members(Distribution):
    r"""The distributions p_1, ..., p_M of an ensemble of equal shapes.

    `log_prob` is the mean $\frac{1}{M} \sum_m \log p_m(x)$. By Jensen's inequality it is at most the log-density of the
    mixture of all members, so that a bound stays a bound. `mean` and `sample` are those of the mixture.

    Args:
        members: the distributions.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, members: list[Distribution]) -> None:
        first = members[0]
        super().__init__(first.batch_shape, first.event_shape, validate_args=False)
        self.members = members

    @property
    def mean(self) -> Tensor:
        return torch.stack([each.mean for each in self.members]).mean(0)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.stack([each.log_prob(value) for each in self.members]).mean(0)

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Draw one member for each element of the batch, and then from it."""
        draws = torch.stack([each.sample(sample_shape) for each in self.members])
        shape = draws.shape[1 : draws.ndim - len(self.event_shape)]
        chosen = torch.randint(len(self.members), shape, device=draws.device)
        index = chosen.reshape(1, *shape, *[1] * len(self.event_shape)).expand(1, *draws.shape[1:])
        return draws.gather(0, index).squeeze(0)
