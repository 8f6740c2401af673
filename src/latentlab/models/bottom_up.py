r"""Hierarchies whose inference runs from the data upwards, a Markov chain as the generative model is.

$p(z_L) \dots p(z_1|z_2)\,p(x|z_1)$ with $q(z_1|x)\,q(z_2|z_1) \dots q(z_L|z_{L-1})$.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from math import prod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentlab.errors import UserError
from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.hierarchy import Hierarchy
from latentlab.models.steps import Steps, StepsFactory
from latentlab.nn import NetworkFactory, Shape
from latentlab.posteriors import Posterior, PosteriorFactory
from latentlab.priors import PriorFactory
from latentlab.trace import Layer, Trace, draw


class Inferred(NamedTuple):
    """A draw of one layer.

    Attributes:
        z: the draw, (K, B, *z_shape).
        q: the conditional it was drawn from.
        coupled: whether the layer above was drawn given this z (see `trace.Layer`).
    """

    z: Tensor
    q: Distribution
    coupled: bool


class Inference(nn.Module, ABC):
    """The inference of all layers given x.

    Args:
        x_shape: the shape of one image.
        z_shapes: the shape of one latent of each layer, z_1 first.
        below_top: the number of the layer that z_L is drawn given, 0 for x.

    Attributes:
        learned: whether any of it but a schedule is learned.
    """

    learned: ClassVar[bool] = True

    def __init__(self, x_shape: Shape, z_shapes: Sequence[Shape], below_top: int) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.z_shapes = tuple(tuple(shape) for shape in z_shapes)
        self.below_top = below_top

    @abstractmethod
    def forward(self, x: Tensor, samples: int, zs: Sequence[Tensor] | None = None) -> list[Inferred]:
        """`samples` draws of each layer given x (B, *x_shape), or the given `zs`, each (K, B, *z_shape), z_1 first."""

    @abstractmethod
    def means(self, x: Tensor) -> Iterator[Tensor]:
        """The mean of each layer's q, given the means of what it depends on, each (B, *z_shape), z_1 first."""

    @abstractmethod
    def top(self, below: Tensor) -> Distribution:
        """The conditional of z_L given the layer `below_top`, or given x, (*, ...), batch shape *."""

    def inputs_of_top(self, x: Tensor) -> Tensor:
        """What `top` is given: x itself, or the means of the layer `below_top`, (B, ...)."""
        return next(islice(chain([x], self.means(x)), self.below_top, None))


# Called with `x_shape` and `latent_dims`, the number of latents of each layer.
InferenceFactory = Callable[..., Inference]


class LearnedInference(Inference):
    """A posterior q(z_1|x), and learned steps q(z_{l+1}|z_l) upwards from there.

    Args:
        x_shape: the shape of one image.
        latent_dims: the number of latents of each layer, z_1 first.
        encoder: makes the posterior's network.
        posterior: makes q(z_1|x).
        steps: makes q(z_{l+1}|z_l).

    Raises:
        UserError: for a posterior of one-hot latents.
    """

    def __init__(
        self,
        x_shape: Shape,
        latent_dims: Sequence[int],
        encoder: NetworkFactory,
        posterior: PosteriorFactory,
        steps: StepsFactory,
    ) -> None:
        super().__init__(x_shape, [(dim,) for dim in latent_dims], below_top=len(latent_dims) - 1)
        self.posterior = real(posterior(network=encoder, in_shape=self.x_shape, latent_dim=latent_dims[0]))
        self.steps = steps(sources=self.z_shapes[:-1], targets=self.z_shapes[1:])

    def forward(self, x: Tensor, samples: int, zs: Sequence[Tensor] | None = None) -> list[Inferred]:
        """The draws, from z_1 upwards."""
        q = self.posterior(x)
        layers = [Inferred(draw(q, samples) if zs is None else zs[0], q, len(self.z_shapes) > 1)]
        for layer in range(1, len(self.z_shapes)):
            q = self.steps(layers[-1].z, layer - 1)
            z = draw(q, 1)[0] if zs is None else zs[layer]
            layers.append(Inferred(z, q, layer + 1 < len(self.z_shapes)))
        return layers

    def means(self, x: Tensor) -> Iterator[Tensor]:
        """The means, from z_1 upwards."""
        mean = self.posterior(x).mean
        yield mean
        for step in range(len(self.z_shapes) - 1):
            mean = self.steps(mean, step).mean
            yield mean

    def top(self, below: Tensor) -> Distribution:
        """q(z_L|z_{L-1}), or q(z_1|x) of a single layer."""
        return self.steps(below, self.below_top - 1) if self.below_top else self.posterior(below)


def real(posterior: Posterior) -> Posterior:
    """The posterior itself, if its latents are real numbers.

    Raises:
        UserError: for one-hot latents.
    """
    if posterior.discrete:
        raise UserError(
            f"{type(posterior).__name__} draws one-hot latents, and the layers of a hierarchy are real: "
            "choose posterior=diagonal_normal or full_rank_normal, or model=categorical_vae"
        )
    return posterior


class TopPosterior(Posterior):
    """The conditional of z_L of an inference, held without owning its parameters: what a prior is paired with.

    Args:
        inference: the inference.
    """

    def __init__(self, inference: Inference) -> None:
        super().__init__(
            (inference.x_shape, *inference.z_shapes)[inference.below_top], inference.z_shapes[-1]
        )
        self.sees_images = inference.below_top == 0
        # In a tuple, so that the parameters stay the inference's alone.
        self.reference = (inference,)

    def forward(self, x: Tensor) -> Distribution:
        """The conditional of z_L given what it depends on, (*, *in_shape), batch shape *."""
        (inference,) = self.reference
        return inference.top(x)


class BottomUp(Hierarchy, ABC):
    r"""A hierarchy with bottom-up inference, and its bound.

    $E_q[\log p(x|z_1) + \sum_{l<L} (\log p(z_l|z_{l+1}) - \log q(z_l|z_{l-1})) - KL(q(z_L|z_{L-1})\,\|\,p(z_L))]$ with
    $z_0 = x$. The terms of the sum are not KL divergences that can be taken in closed form, though textbooks write
    them so: $z_{l+1}$ is drawn given $z_l$. Of each, the entropy of q is exact.

    Args:
        inference: q(z_1|x), q(z_2|z_1), ...
        transitions: makes p(z_l|z_{l+1}).
        decoder: makes the likelihood's network.
        likelihood: makes p(x|z_1).
        prior: makes p(z_L), given $q(z_L|z_{L-1})$: the pseudo-inputs of a VampPrior are latents of layer L - 1.
    """

    def __init__(
        self,
        inference: Inference,
        transitions: StepsFactory,
        decoder: NetworkFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
    ) -> None:
        super().__init__()
        self.inference = inference
        self.learned_inference = inference.learned
        self.x_shape, self.z_shapes = inference.x_shape, inference.z_shapes
        self.latent_dim = sum(map(prod, self.z_shapes))
        self.likelihood = likelihood(network=decoder, in_shape=self.z_shapes[0], x_shape=self.x_shape)
        self.prior = prior(event_shape=self.z_shapes[-1], posterior=TopPosterior(inference))
        self.transitions: Steps = transitions(
            sources=self.z_shapes[1:], targets=self.z_shapes[:-1], inference=inference
        )

    def forward(self, x: Tensor, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        """The trace of x (B, *x_shape) with `samples` draws of each layer, or the given `zs`, each (K, B, *z_shape)."""
        inferred = self.inference(x, samples, zs)
        ps = [*(self.transitions(layer.z, step) for step, layer in enumerate(inferred[1:])), self.prior()]
        layers = [Layer.scored(z, q, p, coupled) for (z, q, coupled), p in zip(inferred, ps, strict=True)]
        px = self.likelihood(inferred[0].z)
        return Trace(layers, px, px.log_prob(x))

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of q(z_1|x), q(z_2|z_1), ..."""
        return self.inference.parameters()

    def descend(self, n: int, given: Sequence[Tensor] = ()) -> list[Tensor]:
        """n ancestral draws of every layer, each (n, *z_shape); the topmost that are `given` are kept as they are."""
        zs = list(given) or [self.prior().sample((n,))]
        for step in reversed(range(len(self.z_shapes) - len(zs))):
            zs.insert(0, self.transitions(zs[0], step).sample())
        return zs

    def px(self, zs: Sequence[Tensor]) -> Distribution:
        """p(x|z_1) for latents of every layer, each (*, *z_shape), batch shape *."""
        return self.likelihood(zs[0])

    def posterior_means(self, x: Tensor) -> list[Tensor]:
        """The mean of each layer's q, given the means of what it depends on, each (B, *z_shape)."""
        return list(self.inference.means(x))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Adapt likelihood and prior to training images (N, *x_shape); the prior by means of what z_L depends on."""
        self.likelihood.initialise(x)
        self.prior.initialise(self.inference.inputs_of_top(x))
