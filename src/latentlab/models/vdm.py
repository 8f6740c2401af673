"""Models with a diffusion in their bound, and the variational diffusion model itself."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor

from latentlab.errors import UserError
from latentlab.likelihoods import Likelihood
from latentlab.likelihoods.noised import NoisedLikelihood
from latentlab.models.base import GenerativeModel
from latentlab.models.diffusion import DenoiserFactory, Diffusion, Draws
from latentlab.nn.signs import SignDenoiser
from latentlab.protocols import Protocol
from latentlab.schedules import NoiseSchedule, alpha, sigma

# The default gamma(0) by the number of values of a pixel: two are told apart at far more noise than 256.
LEAST_NOISE = {2: -4.0, 256: -13.3}


class Diffused(NamedTuple):
    r"""One draw of what a diffusion is run on, and the terms of the bound beside the diffusion's loss.

    The bound is `reconstruction` less the sum of `kls` less the loss $L_T$ of `data`.

    Attributes:
        data: the tensors that are noised, (B, *event_shape).
        reconstruction: log p(x|.), (B,).
        kls: the other terms by their names, each (B,).
    """

    data: Tensor
    reconstruction: Tensor
    kls: dict[str, Tensor]


class DiffusionModel(GenerativeModel, ABC):
    """A model with a diffusion in its bound, which is estimated at one random time for each draw of each example.

    Attributes:
        diffusion: the diffusion.
        steps: the number T of steps of the bound that is trained and reported as `elbo`, None for its limit.
        eval_steps: the T of further forms that are reported beside it.
        sample_steps: the number of steps of a sample.
        likelihood: p(x|.), given what `end` returns.
    """

    weighted = False
    diffusion: Diffusion
    steps: int | None
    eval_steps: Sequence[int]
    sample_steps: int
    likelihood: Likelihood

    @abstractmethod
    def diffused(self, x: Any) -> Diffused:
        """What the diffusion is run on for x, and the other terms of the bound, by one draw of what they depend on."""

    @abstractmethod
    def end(self, z_0: Tensor) -> Tensor:
        """What p(x|.) is given at the ends z_0 of sampled paths (n, ...), drawn where that takes a draw, (n, ...)."""

    def terms(self, x: Any, samples: int = 1) -> dict[str, Tensor]:
        """`elbo`, `reconstruction`, `kl`, and the parts of it (`kl_diffusion`, ...), each (B,), in nats."""
        return self._estimate(x, samples, [])

    def report(self, x: Any, samples: int = 1) -> dict[str, Tensor]:
        """The terms, and `elbo_T10`, `elbo_T100`, ..., `elbo_Tinf` of the other forms of the bound, each (B,).

        All forms share their draws, so that their differences are sharp; each runs the network once more.
        """
        others = [steps for steps in (*self.eval_steps, None) if steps != self.steps]
        return self._estimate(x, samples, others)

    def sample_prior(self, n: int, steps: int | None = None) -> Tensor:
        """n draws of what p(x|.) is given: ancestral draws down to z_0, in `steps` steps or in `sample_steps`."""
        return self.end(self.diffusion.sample(n, self.sample_steps if steps is None else steps))

    def generate(self, n: int, mean: bool = False, steps: int | None = None) -> Tensor:
        """n draws x ~ p(x), or the means of p(x|.) of the same paths, (n, *x_shape).

        Args:
            n: the number of images.
            mean: whether to return means; under the same seed they belong to the same paths.
            steps: the number of steps, whatever was trained; `sample_steps` by default.
        """
        px = self.likelihood(self.sample_prior(n, steps))
        return px.mean if mean else px.sample()

    def _estimate(self, x: Any, samples: int, others: Sequence[int | None]) -> dict[str, Tensor]:
        drawn = [self.diffused(x) for _ in range(samples)]
        times = self.diffusion.times(len(drawn[0].data), samples)
        scores = [self._score(one, u, others) for one, u in zip(drawn, times, strict=True)]
        return {name: torch.stack([score[name] for score in scores]).mean(0) for name in scores[0]}

    def _score(self, drawn: Diffused, u: Tensor, others: Sequence[int | None]) -> dict[str, Tensor]:
        data, reconstruction, kls = drawn
        draws = Draws(u, torch.randn_like(data))
        loss = self.diffusion.loss(data, self.steps, draws)
        rest = reconstruction - torch.stack(list(kls.values())).sum(0)
        forms = {f"elbo_T{_label(steps)}": rest - self.diffusion.loss(data, steps, draws) for steps in others}
        parts = {"reconstruction": reconstruction, "kl": reconstruction - rest + loss, **kls}
        return {"elbo": rest - loss, **parts, "kl_diffusion": loss, **forms}


class VDM(DiffusionModel):
    r"""The variational diffusion model, whose z_t are images with noise (Kingma et al. 2021, section 3).

    $\log p(x) \ge E[\log p(x|z_0)] - KL(q(z_1|x)\,\|\,N(0, I)) - L_T$, with pixels scaled to [-1, 1] for the diffusion
    and p(x|z_0) over the values that they take. Inference is fixed: nothing of it is learned but the schedule.

    Latents, where there are to be any, are z_0: next to x itself.

    Args:
        noise_schedule: gamma(t).
        denoiser: makes the network eps_hat(z_t, gamma_t), see `Diffusion`.
        protocol: the protocol of the data, by which the values of a pixel are counted.
        levels: how many values a pixel takes; None: as many as the protocol gives.
        steps: the number T of steps of the bound that is trained and reported as `elbo`; None: T to infinity.
        eval_steps: the T of further forms that are reported of the test set.
        sample_steps: the number of steps of a sample.
        log_odds: whether the network of pixels of two values is asked for log odds, to which those of the pixel's own
            noise are added (see `SignDenoiser`), and not for the noise.
        x_shape: the shape of one image.

    Raises:
        UserError: for a protocol under which pixels are a continuum.
    """

    learned_inference = False

    def __init__(
        self,
        noise_schedule: NoiseSchedule,
        denoiser: DenoiserFactory,
        protocol: Protocol,
        levels: Literal[2, 256] | None = None,
        steps: PositiveInt | None = None,
        eval_steps: Sequence[PositiveInt] = (10, 100, 1000),
        sample_steps: PositiveInt = 100,
        log_odds: bool = True,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latent_dim = prod(self.x_shape)
        self.levels = levels or self._levels(protocol)
        self.steps = steps
        self.eval_steps = tuple(eval_steps)
        self.sample_steps = sample_steps
        schedule = noise_schedule.with_default(LEAST_NOISE[self.levels])
        self.diffusion = Diffusion(self.x_shape, schedule, denoiser)
        if log_odds and self.levels == 2:
            self.diffusion.denoiser = SignDenoiser(self.diffusion.denoiser)
        self.likelihood = NoisedLikelihood(self.x_shape, self.levels, schedule.gamma_min)

    def diffused(self, x: Tensor) -> Diffused:
        """The scaled images, log p(x|z_0) of a draw z_0 ~ q(z_0|x), and `kl_prior`, the KL(q(z_1|x) || p(z_1))."""
        data = _scaled(x)
        with torch.no_grad():  # nothing of these two is learned
            reconstruction = self.likelihood(self._least_noised(data)).log_prob(x)
            return Diffused(data, reconstruction, {"kl_prior": self.diffusion.prior_kl(data)})

    def end(self, z_0: Tensor) -> Tensor:
        """z_0 itself, by which p(x|z_0) is given."""
        return z_0

    def encode(self, x: Tensor) -> Tensor:
        """A draw z_0 ~ q(z_0|x), the scaled image with the least noise, flat, (B, latent_dim)."""
        return self._least_noised(_scaled(x)).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """The means E[x|z_0] for flat z_0 (B, latent_dim), (B, *x_shape)."""
        return self.likelihood(z.unflatten(-1, self.x_shape)).mean

    def posterior_mean(self, x: Tensor) -> Tensor:
        """The means of q(z_0|x), flat, (B, latent_dim)."""
        return (alpha(self._gamma_0(x)) * _scaled(x)).flatten(1)

    def scored_as(self, protocol: Protocol) -> Protocol:
        """The values k / 255 of continuous data are scored as the discrete values that they are."""
        return protocol.counted()

    def check(self, protocol: Protocol) -> None:
        """Refuse data whose pixels take other values than those it scores.

        Raises:
            UserError: with the protocols that work.
        """
        given = self._levels(protocol)
        if given != self.levels:
            raise UserError(
                f"model.levels={self.levels}: protocol={protocol.name} gives {given} values: "
                "leave model.levels at null, which counts them"
            )

    def _levels(self, protocol: Protocol) -> int:
        levels = self.scored_as(protocol).levels
        if levels is None:
            raise UserError(
                f"VDM scores the values that pixels take, and protocol={protocol.name} gives a continuum: "
                "choose protocol=discrete, or threshold, dynamic or static for binary pixels"
            )
        return levels

    def _least_noised(self, data: Tensor) -> Tensor:
        gamma = self._gamma_0(data)
        return alpha(gamma) * data + sigma(gamma) * torch.randn_like(data)

    def _gamma_0(self, x: Tensor) -> Tensor:
        return x.new_tensor(self.diffusion.schedule.gamma_min)


def _scaled(x: Tensor) -> Tensor:
    """Pixels in [0, 1] to [-1, 1]."""
    return 2 * x - 1


def _label(steps: int | None) -> str:
    return "inf" if steps is None else str(steps)
