r"""Hierarchies whose layers form a Markov chain, with inference from the data upwards.

The model is $p(z_L) \dots p(z_1|z_2)\,p(x|z_1)$ and its inference $q(z_1|x)\,q(z_2|z_1) \dots q(z_L|z_{L-1})$. A
*conditional* is a module that maps a tensor to a distribution, as a posterior does. A chain is a list of conditionals
up and a list of conditionals down.
"""

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.hierarchy import Hierarchy, check_real
from latentlab.nn import NetworkFactory
from latentlab.posteriors import DiagonalNormalPosterior, Posterior, PosteriorFactory
from latentlab.priors import PriorFactory
from latentlab.trace import Layer, Trace, draw


class Chain(Hierarchy, ABC):
    r"""A hierarchy of two lists of conditionals, up and down.

    The bound is
    $E_q[\log p(x|z_1) + \sum_{l<L} (\log p(z_l|z_{l+1}) - \log q(z_l|z_{l-1})) - KL(q(z_L|z_{L-1})\,\|\,p(z_L))]$ with
    $z_0 = x$. Textbooks write the terms of the sum as KL divergences. That is wrong here, because $z_{l+1}$ is drawn
    given $z_l$. Only the entropy of each q is in closed form.

    Args:
        x_shape: the shape of one image.
        up: the conditionals q(z_1|x), q(z_2|z_1), ...
        decoder: makes the likelihood's network.
        likelihood: makes p(x|z_1).
        prior: makes p(z_L), given q(z_L|z_{L-1}). The pseudo-inputs of a VampPrior are latents of layer L - 1.
        marginal: q(z_L|z_1), which the prior gets instead if it is given. Pseudo-inputs are then latents of layer 1.

    Attributes:
        down: the conditionals p(z_1|z_2), p(z_2|z_3), ... A subclass sets them.

    Raises:
        UserError: for a posterior of one-hot latents.
    """

    down: nn.ModuleList

    def __init__(
        self,
        x_shape: Sequence[int],
        up: Sequence[Posterior],
        decoder: NetworkFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        marginal: Posterior | None = None,
    ) -> None:
        super().__init__()
        check_real(up[0])
        top = up[-1] if marginal is None else marginal
        # A VampPrior keeps its pseudo-inputs in [0, 1] only if they are images.
        for conditional in up[1:]:
            conditional.sees_images = False
        # The layer that the prior's posterior is given, 0 for x.
        self.below_top = len(up) - 1 if marginal is None else 1
        self.up = nn.ModuleList(up)
        self.x_shape = tuple(x_shape)
        self.z_shapes = tuple(conditional.event_shape for conditional in up)
        self.latent_dim = sum(map(prod, self.z_shapes))
        self.likelihood = likelihood(network=decoder, in_shape=self.z_shapes[0], x_shape=self.x_shape)
        self.prior = prior(event_shape=self.z_shapes[-1], posterior=top)

    def forward(self, x: Tensor, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        """The trace of x (B, *x_shape) with `samples` draws of each layer, or the given `zs`, each (K, B, *z_shape)."""
        below, qs, drawn = x, [], []
        for level, up in enumerate(self.up):  # q(z_1|x), q(z_2|z_1), ...
            qs.append(up(below))
            drawn.append(draw(qs[-1], samples if level == 0 else None) if zs is None else zs[level])
            below = drawn[-1]
        ps = [down(z) for down, z in zip(self.down, drawn[1:], strict=True)]  # p(z_1|z_2), p(z_2|z_3), ...
        coupled = [True] * len(ps) + [False]
        layers = [Layer.scored(*each) for each in zip(drawn, qs, [*ps, self.prior()], coupled, strict=True)]
        px = self.likelihood(drawn[0])
        return Trace(layers, px, px.log_prob(x))

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        return self.up.parameters()

    def descend(self, n: int, given: Sequence[Tensor] = ()) -> list[Tensor]:
        zs = list(given) or [self.prior().sample((n,))]
        for down in reversed(self.down[: len(self.up) - len(zs)]):
            zs.insert(0, down(zs[0]).sample())
        return zs

    def px(self, zs: Sequence[Tensor]) -> Distribution:
        return self.likelihood(zs[0])

    def posterior_means(self, x: Tensor) -> list[Tensor]:
        means = [x]
        for up in self.up:
            means.append(up(means[-1]).mean)
        return means[1:]

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Adapt the likelihood to images (N, *x_shape), and the prior to the means of its posterior's inputs."""
        self.likelihood.initialise(x)
        for up in self.up[: self.below_top]:
            x = up(x).mean
        self.prior.initialise(x)


class HierarchicalVAE(Chain):
    r"""The VAE with L layers, $p(z_L) \dots p(z_1|z_2)\,p(x|z_1)$ and $q(z_1|x)\,q(z_2|z_1) \dots q(z_L|z_{L-1})$.

    The model is in Rezende et al. 2014 (section 2), this inference in Burda et al. 2016 (section 2). Every
    $p(z_l|z_{l+1})$ is a diagonal normal.

    Args:
        latent_dims: the number of latents of each layer, z_1 first.
        encoder: makes the network of q(z_1|x).
        decoder: makes the network of p(x|z_1).
        inner_encoder: makes the networks of q(z_{l+1}|z_l).
        inner_decoder: makes the networks of p(z_l|z_{l+1}).
        posterior: makes q(z_1|x) and q(z_{l+1}|z_l).
        likelihood: makes p(x|z_1).
        prior: makes p(z_L).
        x_shape: the shape of one image.

    Raises:
        UserError: for a posterior of one-hot latents.
    """

    def __init__(
        self,
        latent_dims: Annotated[Sequence[PositiveInt], Field(min_length=1)],
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        inner_encoder: NetworkFactory,
        inner_decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        pairs = list(pairwise(latent_dims))
        first = posterior(network=encoder, in_shape=tuple(x_shape), latent_dim=latent_dims[0])
        above = [posterior(network=inner_encoder, in_shape=(low,), latent_dim=high) for low, high in pairs]
        super().__init__(x_shape, [first, *above], decoder, likelihood, prior)
        self.down = nn.ModuleList(
            DiagonalNormalPosterior(network=inner_decoder, in_shape=(high,), latent_dim=low)
            for low, high in pairs
        )


class Conditionals(list[Posterior]):
    """The conditionals q(z_2|z_1), q(z_3|z_2), ..., or p(z_1|z_2), p(z_2|z_3), ...

    Attributes:
        marginal: q(z_T|z_1) in closed form, or None.
    """

    marginal: Posterior | None = None


# Called with the number of latents of a layer and the number of conditionals.
ConditionalsFactory = Callable[[int, int], Conditionals]


class MarkovianHVAE(Chain):
    r"""The VAE with T layers of one shape, $p(z_T) \prod p(z_{t-1}|z_t)\,p(x|z_1)$ and $q(z_1|x) \prod q(z_t|z_{t-1})$.

    Luo 2022, "Hierarchical variational autoencoders" (https://arxiv.org/abs/2208.11970). With a single layer it is the
    VAE.

    Args:
        latent_dim: the number of latents of each layer.
        levels: the number T of layers.
        encoder: makes the network of q(z_1|x).
        decoder: makes the network of p(x|z_1).
        posterior: makes q(z_1|x).
        likelihood: makes p(x|z_1).
        prior: makes p(z_T).
        up: makes the conditionals q(z_t|z_{t-1}).
        down: makes the conditionals p(z_{t-1}|z_t).
        x_shape: the shape of one image.

    Raises:
        UserError: for a posterior of one-hot latents.
    """

    layer_name = "t"

    def __init__(
        self,
        latent_dim: PositiveInt,
        levels: Annotated[int, Field(gt=0, le=10_000)],
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        up: ConditionalsFactory,
        down: ConditionalsFactory,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        first = posterior(network=encoder, in_shape=tuple(x_shape), latent_dim=latent_dim)
        above = up(latent_dim, levels - 1)
        super().__init__(x_shape, [first, *above], decoder, likelihood, prior, above.marginal)
        self.down = nn.ModuleList(down(latent_dim, levels - 1))


class SeparateConditionals(Conditionals):
    """A conditional with its own network for each step.

    Args:
        latent_dim: the number of latents of each layer.
        number: the number of conditionals.
        network: makes the network of a conditional.
        conditional: makes a conditional.
    """

    def __init__(
        self,
        latent_dim: int,
        number: int,
        network: NetworkFactory,
        conditional: PosteriorFactory = DiagonalNormalPosterior,
    ) -> None:
        super().__init__(
            conditional(network=network, in_shape=(latent_dim,), latent_dim=latent_dim) for _ in range(number)
        )


class SharedConditionals(Conditionals):
    """One conditional for all steps, wrapped once for each step with the step's one-hot code.

    Args:
        latent_dim: the number of latents of each layer.
        number: the number of conditionals.
        network: makes the network of the shared conditional.
        conditional: makes the shared conditional.
    """

    def __init__(
        self,
        latent_dim: int,
        number: int,
        network: NetworkFactory,
        conditional: PosteriorFactory = DiagonalNormalPosterior,
    ) -> None:
        super().__init__()
        if number:
            shared = conditional(network=network, in_shape=(latent_dim + number,), latent_dim=latent_dim)
            self.extend(Coded(shared, code) for code in torch.eye(number))


class Coded(Posterior):
    """A conditional whose network reads a fixed code after its input.

    Args:
        conditional: the conditional.
        code: the code, (C,).
    """

    code: Tensor

    def __init__(self, conditional: Posterior, code: Tensor) -> None:
        super().__init__((conditional.in_shape[0] - len(code),), conditional.event_shape)
        self.conditional = conditional
        self.register_buffer("code", code, persistent=False)

    def forward(self, x: Tensor) -> Distribution:
        """The conditional given x (*, *in_shape), batch shape *."""
        code = self.code.expand(*x.shape[:-1], -1)
        return self.conditional(torch.cat([x, code], dim=-1))
