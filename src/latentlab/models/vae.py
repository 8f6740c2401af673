"""The variational autoencoder, and the base of all models with one layer of latents."""

from abc import ABC
from collections.abc import Iterator, Sequence
from functools import partial
from math import prod

from pydantic import PositiveInt
from torch import Tensor, nn

from latentlab.likelihoods import EnsembleLikelihood, Likelihood, LikelihoodFactory
from latentlab.models.base import GenerativeModel
from latentlab.nn import NetworkFactory
from latentlab.posteriors import Posterior, PosteriorFactory
from latentlab.priors import Prior, PriorFactory
from latentlab.protocols import Protocol
from latentlab.trace import Layer, Trace, Traced, draw, sample


class SingleLayer(GenerativeModel, Traced, ABC):
    """A model with one layer of latents.

    Attributes:
        posterior: q(z|.).
        likelihood: p(.|z).
        prior: p(z).
        z_shape: the shape of one latent.
    """

    posterior: Posterior
    likelihood: Likelihood
    prior: Prior
    z_shape: tuple[int, ...]

    @property
    def reparametrised(self) -> bool:
        return self.posterior.reparametrised

    @property
    def discrete(self) -> bool:
        return self.posterior.discrete

    def sample_latents(self, n: int) -> Tensor:
        return self.prior().sample((n,)).flatten(1)

    def anneal(self, step: int) -> None:
        self.posterior.anneal(step)

    def check(self, protocol: Protocol) -> None:
        self.likelihood.check(protocol)


class VAE(SingleLayer):
    r"""The variational autoencoder $p(z)\,p(x|z)$ with $q(z|x)$ (Kingma and Welling 2014).

    Args:
        latent_dim: the number of latents, or of one-hot latents for a discrete posterior.
        encoder: makes the posterior's network.
        decoder: makes the likelihood's network.
        posterior: makes q(z|x).
        likelihood: makes p(x|z).
        prior: makes p(z).
        x_shape: the shape of one image.
        decoders: the number of decoders. More than one are an `EnsembleLikelihood`.
    """

    def __init__(
        self,
        latent_dim: PositiveInt,
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
        decoders: PositiveInt = 1,
    ) -> None:
        super().__init__()
        if decoders > 1:
            likelihood = partial(EnsembleLikelihood, likelihood, decoders)
        self.x_shape = tuple(x_shape)
        self.posterior = posterior(network=encoder, in_shape=self.x_shape, latent_dim=latent_dim)
        self.z_shape = self.posterior.event_shape
        self.latent_dim = prod(self.z_shape)
        self.likelihood = likelihood(network=decoder, in_shape=self.z_shape, x_shape=self.x_shape)
        self.prior = prior(event_shape=self.z_shape, posterior=self.posterior)

    def forward(self, x: Tensor, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        q = self.posterior(x)
        z = draw(q, samples) if zs is None else zs[0]  # (K, B, *z_shape)
        px = self.likelihood(z)
        return Trace([Layer.scored(z, q, self.prior())], px, px.log_prob(x))

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        return self.posterior.parameters()

    def generate(self, n: int, mean: bool = False) -> Tensor:
        px = self.likelihood(self.prior().sample((n,)))
        return px.mean if mean else px.sample()

    def encode(self, x: Tensor) -> Tensor:
        return sample(self.posterior(x)).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        return self.likelihood(z.unflatten(-1, self.z_shape)).mean

    def posterior_mean(self, x: Tensor) -> Tensor:
        return self.posterior(x).mean.flatten(1)

    def initialise(self, x: Tensor) -> None:
        self.likelihood.initialise(x)
        self.prior.initialise(x)
