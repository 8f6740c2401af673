r"""Layers that are data with more and more noise.

At times t in [0, 1] of a noise schedule, $q(z_t|d) = \mathcal N(\alpha_t d, \sigma_t^2 I)$ for data d. These are the
marginals of a Markov chain, $q(z_t|z_s) = \mathcal N(\alpha_{t|s} z_s, \sigma_{t|s}^2 I)$ for s < t with
$\alpha_{t|s} = \alpha_t / \alpha_s$ and $\sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2$ (Kingma et al. 2021,
section 3.1). `NoisingConditionals` are that chain. `NoisedData` draws the same distribution from its top.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf, prod
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentlab.errors import UserError
from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.chain import Conditionals
from latentlab.models.diffusion import DenoiserFactory, Diffusion, ResidualNoise, signed
from latentlab.models.hierarchy import Hierarchy
from latentlab.nn import NetworkFactory, Shape
from latentlab.posteriors import Posterior
from latentlab.priors import PriorFactory
from latentlab.schedules import NoiseSchedule, alpha, sigma
from latentlab.trace import Layer, Trace, draw

# The default gamma(0) of noised data. It need not be less, for p(x|z_1) is learned.
LEAST_NOISE = -4.0


class NoisingConditionals(Conditionals):
    """The conditionals q(z_t|z_{t-1}) that add noise to z_1, at times 1/n, 2/n, ..., 1 for n conditionals.

    Args:
        latent_dim: the number of latents of each layer.
        number: the number n of conditionals.
        noise_schedule: gamma(t).

    Raises:
        UserError: without a step.
    """

    def __init__(self, latent_dim: int, number: int, noise_schedule: NoiseSchedule) -> None:
        if number < 1:
            raise UserError(
                "model.levels=1: noise is added above the first layer: choose model.levels=2 or more, or chain=learned"
            )
        first, *others = torch.arange(1, number + 1) / number
        steps = [AddedNoise((latent_dim,), noise_schedule, first)]
        steps += [AddedNoise((latent_dim,), noise_schedule, t, s) for s, t in pairwise([first, *others])]
        super().__init__(steps)
        self.marginal = Marginal(steps[-1])


class AddedNoise(Posterior):
    r"""A step that adds noise, $q(z_t|z_s) = \mathcal N(\alpha_{t|s} z_s, \sigma_{t|s}^2 I)$, without parameters.

    With $\gamma = \gamma(t)$ and $\gamma_s = \gamma(s)$, $\sigma_{t|s}^2 = -\mathrm{expm1}(\gamma_s - \gamma_t)
    \sigma_t^2$.

    Args:
        shape: the shape of z_s and z_t.
        noise_schedule: gamma(t).
        t: the time of z_t, ().
        s: the time of z_s, (). None if z_s has no noise.
    """

    t: Tensor
    s: Tensor | None

    def __init__(
        self, shape: Shape, noise_schedule: NoiseSchedule, t: Tensor, s: Tensor | None = None
    ) -> None:
        super().__init__(shape, shape)
        self.noise_schedule = noise_schedule
        self.register_buffer("t", t, persistent=False)
        self.register_buffer("s", s, persistent=False)

    def forward(self, z_s: Tensor) -> Independent:
        """q(z_t|z_s) for z_s (*, *shape), batch shape *."""
        return self.given(z_s, self.s)

    def given(self, z_s: Tensor, s: Tensor | None) -> Independent:
        """q(z_t|z_s) for z_s (*, *shape) at another time s (), or without noise if s is None."""
        gamma_t = self.noise_schedule(self.t[None]).gamma
        gamma_s = torch.full_like(gamma_t, -inf) if s is None else self.noise_schedule(s[None]).gamma
        loc = alpha(gamma_t) / alpha(gamma_s) * z_s
        scale = (-torch.expm1(gamma_s - gamma_t)).sqrt() * sigma(gamma_t)
        return normal(loc, scale, len(self.event_shape))


class Marginal(Posterior):
    r"""The marginal of a step given data without noise, $q(z_t|d) = \mathcal N(\alpha_t d, \sigma_t^2 I)$.

    Args:
        step: the step that ends at t. It stays the owner of the noise schedule.
    """

    sees_images = False

    def __init__(self, step: AddedNoise) -> None:
        super().__init__(step.in_shape, step.event_shape)
        # In a tuple, so that the step is not a submodule and its parameters are not registered twice.
        self.reference = (step,)

    def forward(self, data: Tensor) -> Independent:
        """q(z_t|d) for d (*, *shape), batch shape *."""
        (step,) = self.reference
        return step.given(data, None)


class NoisedData(Hierarchy):
    r"""The hierarchy whose L layers are x with more and more noise, and whose transitions remove it.

    The layers are $z_0, z_{1/T}, \dots, z_1$ of a diffusion of T = L - 1 steps, with x scaled from [0, 1] to the data d
    in [-1, 1]. A denoiser makes $p(z_s|z_t) = q(z_s|z_t, d = \hat d(z_t))$. Inference has no parameters but the noise
    schedule's. It draws $q(z_1|d) \prod q(z_s|z_t, d)$ from its top, so that every layer's KL is in closed form.

    Args:
        levels: the number L of layers.
        decoder: makes the network of p(x|z_0).
        likelihood: makes p(x|z_0).
        prior: makes p(z_1).
        noise_schedule: gamma(t).
        denoiser: makes the network of the noise in z_t, see `diffusion.Diffusion`.
        x_shape: the shape of one image.

    Raises:
        UserError: for less than two layers.
    """

    layer_name = "t"
    learned_inference = False
    times: Tensor

    def __init__(
        self,
        levels: Annotated[int, Field(gt=0, le=10_000)],
        decoder: NetworkFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        noise_schedule: NoiseSchedule,
        denoiser: DenoiserFactory,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        if levels < 2:
            raise UserError(
                f"model.levels={levels}: noised data runs from least to most noise, which takes two layers: "
                "choose model.levels=2 or more, or chain=learned"
            )
        self.x_shape = tuple(x_shape)
        self.z_shapes = (self.x_shape,) * levels
        self.latent_dim = levels * prod(self.x_shape)
        self.register_buffer("times", torch.arange(levels) / (levels - 1), persistent=False)
        self.noise_schedule = noise_schedule.with_default(LEAST_NOISE)
        self.likelihood = likelihood(network=decoder, in_shape=self.x_shape, x_shape=self.x_shape)
        self.posterior = NoisiestImage(self.x_shape, self.noise_schedule.gamma_max)
        self.prior = prior(event_shape=self.x_shape, posterior=self.posterior)
        self.diffusion = Diffusion(self.x_shape, self.noise_schedule, denoiser, ResidualNoise())

    def forward(self, x: Tensor, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        """The trace of x (B, *x_shape) with `samples` draws of each layer, or the given `zs`, each (K, B, *x_shape)."""
        data = signed(x).expand(samples, *x.shape)
        q, p = self.posterior(x.expand(samples, *x.shape)), self.prior()
        z = draw(q) if zs is None else zs[-1]
        layers = [Layer.scored(z, q, p)]
        for level in reversed(range(len(self.times) - 1)):
            q, p = self.backward(z, data, level), self.transition(z, level)
            z = draw(q) if zs is None else zs[level]
            layers.insert(0, Layer.scored(z, q, p))
        px = self.likelihood(z)
        return Trace(layers, px, px.log_prob(x))

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        return self.noise_schedule.parameters()

    def descend(self, n: int, given: Sequence[Tensor] = ()) -> list[Tensor]:
        zs = list(given) or [self.prior().sample((n,))]
        for level in reversed(range(len(self.times) - len(zs))):
            zs.insert(0, self.transition(zs[0], level).sample())
        return zs

    def px(self, zs: Sequence[Tensor]) -> Distribution:
        return self.likelihood(zs[0])

    def posterior_means(self, x: Tensor) -> list[Tensor]:
        """The means of q(z_t|x), each (B, *x_shape)."""
        return [self.marginal(signed(x), level).mean for level in range(len(self.times))]

    def initialise(self, x: Tensor) -> None:
        """Adapt likelihood and prior to training images (N, *x_shape)."""
        self.likelihood.initialise(x)
        self.prior.initialise(x)

    def marginal(self, data: Tensor, level: int) -> Independent:
        """q(z_t|d) of a layer, from 0 on, for d (*, *x_shape), batch shape *."""
        gamma_t = self.noise_schedule(self.times[level][None]).gamma
        return normal(alpha(gamma_t) * data, sigma(gamma_t), len(self.x_shape))

    def backward(self, z_t: Tensor, data: Tensor, level: int) -> Independent:
        r"""q(z_s|z_t, d) of the layer at s, given the layer above it at t, batch shape that of z_t.

        Its mean is $\frac{\alpha_s}{\alpha_t} (z_t - c\,(z_t - \alpha_t d))$ and its variance $c\,\sigma_s^2$ with
        $c = -\mathrm{expm1}(\gamma_s - \gamma_t)$ (Kingma et al. 2021, eq. 25 to 27, rearranged).
        """
        gamma_s, gamma_t = self.noise_schedule(self.times[level : level + 2]).gamma
        c = -torch.expm1(gamma_s - gamma_t)
        loc = alpha(gamma_s) / alpha(gamma_t) * (z_t - c * (z_t - alpha(gamma_t) * data))
        return normal(loc, c.sqrt() * sigma(gamma_s), len(self.x_shape))

    def transition(self, z_t: Tensor, level: int) -> Independent:
        """p(z_s|z_t) of the layer at s, given the layer above it at t, (*, *x_shape), batch shape *."""
        flat = z_t.reshape(-1, *self.x_shape)
        s, t = (time.expand(len(flat)) for time in self.times[level : level + 2])
        p = self.diffusion.reverse(flat, t, s).base_dist
        return normal(p.loc.view(z_t.shape), p.scale.view(z_t.shape), len(self.x_shape))


class NoisiestImage(Posterior):
    r"""The top layer of noised data, $q(z_1|x) = \mathcal N(\alpha_1 (2 x - 1), \sigma_1^2 I)$ for x in [0, 1].

    Args:
        x_shape: the shape of one image.
        gamma_max: gamma(1).
    """

    def __init__(self, x_shape: Shape, gamma_max: float) -> None:
        super().__init__(x_shape, x_shape)
        self.gamma_max = gamma_max

    def forward(self, x: Tensor) -> Independent:
        """q(z_1|x) for x (*, *x_shape), batch shape *."""
        gamma = x.new_tensor(self.gamma_max)
        return normal(alpha(gamma) * signed(x), sigma(gamma), len(self.event_shape))


def normal(loc: Tensor, scale: Tensor, dims: int) -> Independent:
    """The normal of tensors with `dims` dimensions and independent entries, for a scale that broadcasts."""
    return Independent(Normal(loc, scale.expand_as(loc)), dims)
