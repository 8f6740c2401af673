"""A VAE with a diffusion as its prior."""

from collections.abc import Mapping, Sequence
from math import exp, log, pi, prod
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from latentlab.errors import UserError
from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.diffusion import DenoiserFactory, Diffusion, Mixed, Parametrisation
from latentlab.models.pretrained import adopt
from latentlab.models.samplers import ANCESTRAL, Sampler
from latentlab.models.vdm import Diffused, DiffusionModel
from latentlab.nn import NetworkFactory
from latentlab.posteriors import FlowPosterior, PosteriorFactory
from latentlab.priors import StandardNormalPrior
from latentlab.protocols import Protocol
from latentlab.schedules import NoiseSchedule, alpha
from latentlab.trace import Layer, Trace, draw, sample

# The parts that are loaded from a pre-trained VAE, and frozen on request.
AUTOENCODER = ("posterior", "likelihood")
# The default gamma(0). Latents are resolved to exp(-5) = 0.007.
LEAST_NOISE = -10.0
LEAST_VARIANCE = 1e-12  # of a latent that is standardised


class LatentVDM(DiffusionModel):
    r"""A VAE whose prior p(z) is a variational diffusion model (Vahdat et al. 2021, https://arxiv.org/abs/2106.05931).

    The bound is $E_q[\log p(x|z) - \log q(z|x) + \log p(z)]$ with the exact entropy of q. Its last term is bounded by
    the diffusion's $E[\log p(z|z_0)] - KL(q(z_1|z)\,\|\,N(0, I)) - L_T$ (Kingma et al. 2021, eq. 11).

    Here $p(z|z_0) = N(z_0 / \alpha_0, e^{\gamma_0} I)$ with $e^{\gamma_0} = \sigma_0^2 / \alpha_0^2$. It is the inverse
    of $q(z_0|z)$ if p(z) is flat on the scale of the least noise. For any z,
    $E[\log p(z|z_0)] = -\frac D2 (\log 2\pi e + \gamma_0)$. Latents are resolved to $e^{\gamma_0 / 2}$. A smaller
    $\gamma_0$ loses less of the bound. The gradient of the encoder runs through the diffusion's terms too.

    With `standardise`, the diffusion sees $u = (z - m) / s$. The shift m and the scale s are the mean and standard
    deviation of q(z) over training examples at the start. Then $\log p(z) = \log p(u) - \sum_d \log s_d$, and the last
    term is part of `kl_latent`.

    `kl` has three parts: `kl_latent` is $E[\log q(z|x) - \log p(z|z_0)]$, which may be negative, and `kl_prior` and
    `kl_diffusion` are those of the diffusion.

    Args:
        latent_dim: the number D of latents.
        encoder: makes the posterior's network.
        decoder: makes the likelihood's network.
        posterior: makes q(z|x), over continuous latents.
        likelihood: makes p(x|z).
        noise_schedule: gamma(t). Its default gamma(0) is -10.
        denoiser: makes the diffusion's denoiser.
        steps: the number T of steps of the bound `elbo`; None for T to infinity.
        eval_steps: further numbers of steps, for which the bound of the test set is reported too.
        sample_steps: the number of steps of a sample of p(z).
        pretrained: the checkpoint of a VAE with the same networks, from which the encoder and decoder start. It is
            read by the Lightning module, which calls `adopt`.
        freeze: keep the encoder and decoder fixed.
        standardise: standardise the latents.
        prediction: what the denoiser predicts; None for `Mixed`.
        sampler: draws each step of a sample; None for ancestral sampling.
        x_shape: the shape of one image.

    Raises:
        UserError: for discrete latents; if an encoder without pre-training is to be frozen.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_dim: PositiveInt,
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        noise_schedule: NoiseSchedule,
        denoiser: DenoiserFactory,
        steps: PositiveInt | None = None,
        eval_steps: Sequence[PositiveInt] = (10, 100, 1000),
        sample_steps: PositiveInt = 250,
        pretrained: str | None = None,
        freeze: bool = False,
        standardise: bool = False,
        prediction: Parametrisation | None = None,
        sampler: Sampler | None = None,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.posterior = posterior(network=encoder, in_shape=self.x_shape, latent_dim=latent_dim)
        if self.posterior.discrete:
            raise UserError(
                "a diffusion prior needs continuous latents, and this posterior's are discrete: "
                "choose posterior=diagonal_normal or posterior=full_rank_normal"
            )
        if isinstance(self.posterior, FlowPosterior):
            raise UserError(
                f"the bound of a diffusion prior needs the entropy of q(z|x), and {type(self.posterior).__name__} "
                "has no closed form of it: choose posterior=diagonal_normal or posterior=full_rank_normal"
            )
        if freeze and pretrained is None:
            raise UserError(
                "model.freeze=true trains the prior of a pre-trained VAE: "
                "give its checkpoint as model.pretrained=RUN/checkpoints/best.ckpt"
            )
        z_shape = self.posterior.event_shape
        self.latent_dim = prod(z_shape)
        self.likelihood = likelihood(network=decoder, in_shape=z_shape, x_shape=self.x_shape)
        schedule = noise_schedule.with_default(LEAST_NOISE)
        self.diffusion = Diffusion(z_shape, schedule, denoiser, prediction or Mixed())
        self.standardise = standardise
        self.register_buffer("shift", torch.zeros(z_shape), persistent=standardise)
        self.register_buffer("scale", torch.ones(z_shape), persistent=standardise)
        self.sampler = sampler or ANCESTRAL
        self.steps = steps
        self.eval_steps = tuple(eval_steps)
        self.sample_steps = sample_steps
        self.pretrained = pretrained
        for part in AUTOENCODER if freeze else ():
            self.get_submodule(part).requires_grad_(False)

    def diffused(self, x: Tensor) -> Diffused:
        q = self.posterior(x)
        z = draw(q, 1)[0]  # (B, D)
        u = (z - self.shift) / self.scale
        kls = {"kl_prior": self.diffusion.prior_kl(u), "kl_latent": -q.entropy() - self.log_resolution}
        return Diffused(u, self.likelihood(z).log_prob(x), kls)

    @property
    def log_resolution(self) -> Tensor:
        r"""$E[\log p(z|z_0)] = E[\log p(u|z_0)] - \sum_d \log s_d$, the same for all z, (), in nats."""
        resolution = -self.latent_dim / 2 * (log(2 * pi) + 1 + self.diffusion.noise_schedule.gamma_min)
        return resolution - self.scale.log().sum()

    def end(self, z_0: Tensor) -> Tensor:
        """Draw z ~ p(z|z_0), (n, D)."""
        gamma = self.diffusion.noise_schedule.gamma_min
        return self.unstandardised(
            z_0 / alpha(z_0.new_tensor(gamma)) + exp(gamma / 2) * torch.randn_like(z_0)
        )

    def unstandardised(self, u: Tensor) -> Tensor:
        """Return z = m + s u, (n, D)."""
        return self.shift + self.scale * u

    def encode(self, x: Tensor) -> Tensor:
        return sample(self.posterior(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.likelihood(z).mean

    def posterior_mean(self, x: Tensor) -> Tensor:
        return self.posterior(x).mean

    def initialise(self, x: Tensor) -> None:
        if self.pretrained is None:
            self.likelihood.initialise(x)
        if self.standardise:
            with torch.no_grad():
                q = self.posterior(x)
            self.set_moments(q.mean.mean(0), (q.variance + q.mean.square()).mean(0))

    def set_moments(self, mean: Tensor, square: Tensor) -> None:
        """Standardise by the mean of q(z) and the mean of its square, each (D,)."""
        self.shift.copy_(mean)
        self.scale.copy_((square - mean**2).clamp(min=LEAST_VARIANCE).sqrt())

    def anneal(self, step: int) -> None:
        self.posterior.anneal(step)

    def check(self, protocol: Protocol) -> None:
        self.likelihood.check(protocol)

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Load the encoder and decoder from the `state_dict` of a VAE.

        Raises:
            UserError: if the state has no encoder or decoder, or those of other networks.
        """
        adopt(self, AUTOENCODER, state, self.pretrained)


class LatentDDPM(LatentVDM):
    r"""A VAE with the prior N(0, I), and then a diffusion of its latents (Rombach et al. 2022, section 3).

    `objective=latent_diffusion` trains them one after the other. First the VAE maximises a beta-ELBO, and the shift and
    the scale follow the moments of q(z), averages whose weights fall by a factor of `momentum` a step. Then all stay as
    they are, and the diffusion learns p(z). For any beta, `elbo` is the bound with the diffusion as the prior, in nats.

    Args:
        latent_dim: the number D of latents.
        encoder: makes the posterior's network.
        decoder: makes the likelihood's network.
        posterior: makes q(z|x), over continuous latents.
        likelihood: makes p(x|z).
        noise_schedule: gamma(t). Its default gamma(0) is -10.
        denoiser: makes the diffusion's denoiser.
        steps: the number T of steps of the bound `elbo`; None for T to infinity.
        eval_steps: further numbers of steps, for which the bound of the test set is reported too.
        sample_steps: the number of steps of a sample of p(z).
        prediction: what the denoiser predicts; None for `Mixed`.
        sampler: draws each step of a sample; None for ancestral sampling.
        momentum: the momentum of the moments.
        x_shape: the shape of one image.
    """

    moments: Tensor
    diffusing: Tensor
    # Not while a step is only rehearsed.
    following = False

    def __init__(
        self,
        latent_dim: PositiveInt,
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        noise_schedule: NoiseSchedule,
        denoiser: DenoiserFactory,
        steps: PositiveInt | None = 1000,
        eval_steps: Sequence[PositiveInt] = (),
        sample_steps: PositiveInt = 1000,
        prediction: Parametrisation | None = None,
        sampler: Sampler | None = None,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__(
            *(latent_dim, encoder, decoder, posterior, likelihood, noise_schedule, denoiser),
            steps=steps,
            eval_steps=eval_steps,
            sample_steps=sample_steps,
            standardise=True,
            prediction=prediction,
            sampler=sampler,
            x_shape=x_shape,
        )
        self.momentum = momentum
        self.base = StandardNormalPrior(self.posterior.event_shape)
        # The sums of weights, of weighted z and of weighted z^2.
        self.register_buffer("moments", torch.zeros(3, *self.posterior.event_shape))
        self.register_buffer("diffusing", torch.tensor(False))

    def diffused(self, x: Tensor) -> Diffused:
        with torch.no_grad():  # the diffusion does not train the VAE
            return super().diffused(x)

    def autoencoder_terms(self, x: Tensor) -> dict[str, Tensor]:
        r"""The terms `elbo`, `reconstruction` and `kl` of the VAE with the prior N(0, I), each (B,)."""
        q = self.posterior(x)
        z = draw(q, 1)
        if self.following:
            self._follow(z[0].detach())
        layer = Layer.scored(z, q, self.base())
        px = self.likelihood(z)
        return Trace([layer], px, px.log_prob(x)).terms()

    def _follow(self, z: Tensor) -> None:
        new = torch.stack([torch.ones_like(z[0]), z.mean(0), z.square().mean(0)])
        self.moments.mul_(self.momentum).add_(new, alpha=1 - self.momentum)
        self.set_moments(*self.moments[1:] / self.moments[0])

    def anneal(self, step: int) -> None:
        super().anneal(step)
        self.following = True

    def initialise(self, x: Tensor) -> None:
        self.likelihood.initialise(x)
