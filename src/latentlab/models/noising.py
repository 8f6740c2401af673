r"""Inference that adds noise, and steps downwards that remove it.

Layers are data d with more and more noise, $q(z_t|d) = \mathcal N(\alpha_t d, \sigma_t^2 I)$ at times t in [0, 1] of a
noise schedule: a chain with $q(z_t|z_s) = \mathcal N(\alpha_{t|s} z_s, \sigma_{t|s}^2 I)$, s < t, of
$\alpha_{t|s} = \alpha_t / \alpha_s$ and $\sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2$
(Kingma et al. 2021, section 3.1). Here it is drawn from its top, as $q(z_1|d) \prod q(z_s|z_t, d)$, which is the same
distribution: as z_s is drawn after z_t, its KL divergence from $p(z_s|z_t)$ has a closed form.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentlab.errors import UserError
from latentlab.models.bottom_up import Inference, Inferred, real
from latentlab.models.diffusion import DenoiserFactory, Diffusion
from latentlab.models.steps import Steps
from latentlab.nn import NetworkFactory, Shape
from latentlab.posteriors import PosteriorFactory
from latentlab.schedules import NoiseSchedule, alpha, sigma
from latentlab.trace import draw

# The default gamma(0) of noised data. It need not be less, for p(x|z_1) is learned.
LEAST_NOISE = -4.0


class NoisingChain(nn.Module):
    """Layers of data with noise.

    Args:
        schedule: gamma(t).
        times: the time of each layer, increasing, (n,).
        dims: the number of dimensions of the data.
    """

    times: Tensor

    def __init__(self, schedule: NoiseSchedule, times: Tensor, dims: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.dims = dims
        self.register_buffer("times", times, persistent=False)

    def marginal(self, data: Tensor, layer: int) -> Independent:
        r"""$q(z_t|d)$ of the layer, from 0 on, batch shape that of the data."""
        gamma = self.schedule(self.times[layer : layer + 1]).gamma
        return self._normal(alpha(gamma) * data, sigma(gamma))

    def back(self, z_t: Tensor, data: Tensor, layer: int) -> Independent:
        r"""$q(z_s|z_t, d)$ of the layer at s, given the one above it at t.

        Mean $\frac{\alpha_s}{\alpha_t} (z_t - c\,(z_t - \alpha_t d))$ and variance $c\,\sigma_s^2$ with
        $c = -\mathrm{expm1}(\gamma_s - \gamma_t)$ (Kingma et al. 2021, eq. 25 to 27, rearranged).
        """
        gamma_s, gamma_t = self.schedule(self.times[layer : layer + 2]).gamma
        c = -torch.expm1(gamma_s - gamma_t)
        loc = alpha(gamma_s) / alpha(gamma_t) * (z_t - c * (z_t - alpha(gamma_t) * data))
        return self._normal(loc, c.sqrt() * sigma(gamma_s))

    def forward(self, data: Tensor, zs: Sequence[Tensor] | None = None) -> list[Inferred]:
        """A draw of each layer given data (K, B, ...), or the given `zs`: from the top, listed from the bottom."""
        q = self.marginal(data, len(self.times) - 1)
        layers = [Inferred(draw(q, 1)[0] if zs is None else zs[-1], q, coupled=False)]
        for layer in reversed(range(len(self.times) - 1)):
            q = self.back(layers[0].z, data, layer)
            layers.insert(0, Inferred(draw(q, 1)[0] if zs is None else zs[layer], q, coupled=False))
        return layers

    def _normal(self, loc: Tensor, scale: Tensor) -> Independent:
        return Independent(Normal(loc, scale.expand_as(loc)), self.dims)


class NoisedData(Inference):
    r"""Layers of the data's shape that are the data with noise: nothing is learned but the schedule.

    The L layers are the $z_0, z_{1/T}, \dots, z_1$ of a diffusion of T = L - 1 steps, with x taken from [0, 1] to
    [-1, 1].

    Args:
        x_shape: the shape of one image.
        latent_dims: their number is the number L of layers; each has as many latents as there are pixels.
        noise_schedule: gamma(t).

    Raises:
        UserError: for less than two layers.
    """

    learned = False

    def __init__(self, x_shape: Shape, latent_dims: Sequence[int], noise_schedule: NoiseSchedule) -> None:
        layers = len(latent_dims)
        super().__init__(x_shape, [x_shape] * layers, below_top=0)
        if layers < 2:
            raise UserError(
                f"model.levels={layers}: noised data runs from least to most noise, which takes two layers: "
                "choose model.levels=2 or more, or chain=learned"
            )
        schedule = noise_schedule.with_default(LEAST_NOISE)
        self.chain = NoisingChain(schedule, torch.arange(layers) / (layers - 1), len(self.x_shape))

    def forward(self, x: Tensor, samples: int, zs: Sequence[Tensor] | None = None) -> list[Inferred]:
        """The draws, from z_L downwards."""
        return self.chain((2 * x - 1).expand(samples, *x.shape), zs)

    def means(self, x: Tensor) -> Iterator[Tensor]:
        """The means of $q(z_t|x)$."""
        return (self.chain.marginal(2 * x - 1, layer).mean for layer in range(len(self.z_shapes)))

    def top(self, below: Tensor) -> Distribution:
        """q(z_L|x)."""
        return self.chain.marginal(2 * below - 1, len(self.z_shapes) - 1)


class NoisedLatents(Inference):
    r"""A posterior q(z_1|x), and layers above it that are z_1 with more and more noise.

    Layer l, from 2 on, is at time $(l - 1) / (L - 1)$.

    Args:
        x_shape: the shape of one image.
        latent_dims: the number of latents of each layer, all the same.
        encoder: makes the posterior's network.
        posterior: makes q(z_1|x).
        noise_schedule: gamma(t).

    Raises:
        UserError: for a posterior of one-hot latents, and for less than two layers.
    """

    def __init__(
        self,
        x_shape: Shape,
        latent_dims: Sequence[int],
        encoder: NetworkFactory,
        posterior: PosteriorFactory,
        noise_schedule: NoiseSchedule,
    ) -> None:
        above = len(latent_dims) - 1
        super().__init__(x_shape, [(dim,) for dim in latent_dims], below_top=1)
        if above < 1:
            raise UserError(
                "model.levels=1: noise is added above the first layer: choose model.levels=2 or more, or chain=learned"
            )
        self.posterior = real(posterior(network=encoder, in_shape=self.x_shape, latent_dim=latent_dims[0]))
        self.chain = NoisingChain(noise_schedule, torch.arange(1, above + 1) / above, 1)

    def forward(self, x: Tensor, samples: int, zs: Sequence[Tensor] | None = None) -> list[Inferred]:
        """The draws, z_1 first and the others from z_L downwards."""
        q = self.posterior(x)
        first = Inferred(draw(q, samples) if zs is None else zs[0], q, coupled=True)
        return [first, *self.chain(first.z, None if zs is None else zs[1:])]

    def means(self, x: Tensor) -> Iterator[Tensor]:
        """The means, from z_1 upwards."""
        mean = self.posterior(x).mean
        yield mean
        yield from (self.chain.marginal(mean, layer).mean for layer in range(len(self.z_shapes) - 1))

    def top(self, below: Tensor) -> Distribution:
        """q(z_L|z_1)."""
        return self.chain.marginal(below, len(self.z_shapes) - 2)


class DenoisingSteps(Steps):
    r"""Steps downwards that remove the noise of `NoisedData`, $p(z_s|z_t) = q(z_s|z_t, x = \hat x(z_t))$.

    Args:
        sources: the shapes that each step starts from.
        targets: the shapes that each step leads to, the same.
        denoiser: makes the network of the noise in $z_t$, see `diffusion.Diffusion`.
        inference: the noised data, whose schedule it shares.

    Raises:
        UserError: for another inference.
    """

    times: Tensor

    def __init__(
        self, sources: Sequence[Shape], targets: Sequence[Shape], denoiser: DenoiserFactory, inference: Any
    ) -> None:
        super().__init__()
        if not isinstance(inference, NoisedData):
            raise UserError(
                f"DenoisingSteps remove the noise of NoisedData, and {type(inference).__name__} adds none to the data: "
                "choose chain=noised_data, or chain.transitions of another chain"
            )
        self.diffusion = Diffusion(sources[0], inference.chain.schedule, denoiser)
        self.register_buffer("times", inference.chain.times, persistent=False)

    def forward(self, z: Tensor, step: int) -> Independent:
        """p(z_s|z_t) of a step, given latents z_t (*, *source), batch shape *."""
        shape = self.diffusion.event_shape
        flat = z.reshape(-1, *shape)
        s, t = (time.expand(len(flat)) for time in self.times[step : step + 2])
        normal = self.diffusion.reverse(flat, t, s).base_dist
        return Independent(Normal(normal.loc.view(z.shape), normal.scale.view(z.shape)), len(shape))
