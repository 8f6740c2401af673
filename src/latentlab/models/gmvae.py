"""The variational autoencoder of clusters, GMVAE."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from latentlab.errors import UserError
from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.conditional import ClassModel, with_planes
from latentlab.nn import NetworkFactory, full_precision
from latentlab.posteriors import PosteriorFactory
from latentlab.priors import MixtureOfGaussiansPrior, PriorFactory
from latentlab.protocols import Protocol
from latentlab.trace import Layer, Trace, draw, sample

PARTS = ("elbo", "reconstruction", "kl")


class GMVAE(ClassModel):
    r"""The VAE of clusters y: $p(y)\,p(z|y)\,p(x|z)$ with $q(y|x)\,q(z|x,y)$, and no labels.

    $\log p(x) \geq \sum_y q(y|x) (E_{q(z|x,y)}[\log p(x|z)] - KL(q(z|x,y)\,\|\,p(z|y))) - KL(q(y|x)\,\|\,p(y))$, with
    the exact sum over y. Each example costs C passes of the networks. The generative model is that of VaDE (Jiang et
    al. 2017) and of a VAE with a mixture prior. The inference model is that of M2 (Kingma et al. 2014).

    Args:
        latent_dim: the number of latents.
        encoder: makes the networks of q(z|x, y) and of q(y|x).
        decoder: makes the likelihood's network.
        posterior: makes q(z|x, y).
        likelihood: makes p(x|z).
        prior: makes the mixture p(z) = sum_y p(y) p(z|y), whose components are the clusters.
        learned_weights: True to learn p(y), False for a uniform p(y). A learned p(y) may give up all clusters but one.
        x_shape: the shape of one image.

    Raises:
        UserError: for a prior that is no mixture of Gaussians.
    """

    weighted = False

    def __init__(
        self,
        latent_dim: PositiveInt,
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        learned_weights: bool = True,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        channels, *size = self.x_shape
        self.posterior = posterior(network=encoder, in_shape=(channels + 1, *size), latent_dim=latent_dim)
        self.z_shape = self.posterior.event_shape
        self.latent_dim = prod(self.z_shape)
        self.likelihood = likelihood(network=decoder, in_shape=self.z_shape, x_shape=self.x_shape)
        self.prior = _mixture(prior(event_shape=self.z_shape, posterior=self.posterior))
        self.prior.logits.requires_grad_(learned_weights)
        self.num_classes = len(self.prior.logits)
        self.planes = nn.Embedding(self.num_classes, prod(size))
        self.classifier = encoder(self.x_shape, (self.num_classes,))

    def check(self, protocol: Protocol) -> None:
        self.likelihood.check(protocol)

    def anneal(self, step: int) -> None:
        self.posterior.anneal(step)

    def initialise(self, x: Tensor) -> None:
        self.likelihood.initialise(x)

    @property
    def weights(self) -> Categorical:
        """The distribution p(y)."""
        return Categorical(logits=self.prior.logits)

    def component(self, y: Tensor) -> Independent:
        """p(z|y) of clusters y (B,), batch shape (B,)."""
        normal = Normal(self.prior.means[y], self.prior.log_scales[y].exp())
        return Independent(normal, len(self.z_shape))

    def classify(self, x: Tensor) -> Categorical:
        """q(y|x) of images x (B, *x_shape), batch shape (B,)."""
        return Categorical(logits=full_precision(self.classifier(x)))

    def clusters(self, x: Tensor) -> Tensor:
        """The most probable cluster of each image under q(y|x), (B,)."""
        return self.classify(x).logits.argmax(-1)

    def terms(self, x: Tensor, samples: int = 1) -> dict[str, Tensor]:
        """`elbo` = reconstruction - kl - kl_y and its parts, each (B,)."""
        q_y, given = self.classify(x), self.by_cluster(x, samples)
        means = {name: (q_y.probs * given[name]).sum(-1) for name in PARTS}
        kl_y = kl_divergence(q_y, self.weights)
        return {**means, "elbo": means["elbo"] - kl_y, "kl_y": kl_y}

    def by_cluster(self, x: Tensor, samples: int = 1) -> dict[str, Tensor]:
        """The bound on log p(x|y) and its parts for every cluster, each (B, C)."""
        each = [self.given(x, y, samples).terms() for y in self._every(x)]
        return {name: torch.stack([terms[name] for terms in each], dim=-1) for name in PARTS}

    def given(self, x: Tensor, y: Tensor, samples: int = 1) -> Trace:
        """The trace of images x in clusters y (B,)."""
        q = self.posterior(with_planes(x, y, self.planes))
        z = draw(q, samples)  # (K, B, *z_shape)
        px = self.likelihood(z)
        return Trace([Layer.scored(z, q, self.component(y))], px, px.log_prob(x))

    def _every(self, x: Tensor) -> list[Tensor]:
        return [torch.full((len(x),), y, device=x.device) for y in range(self.num_classes)]

    def generate(self, n: int, mean: bool = False, y: Tensor | None = None) -> Tensor:
        """Draw images from p(x|y) for clusters y (n,), by default drawn from p(y), or the means of p(x|z)."""
        z = self.prior().sample((n,)) if y is None else self.component(y).sample()
        px = self.likelihood(z)
        return px.mean if mean else px.sample()

    def sample_latents(self, n: int) -> Tensor:
        return self.prior().sample((n,)).flatten(1)

    def encode(self, x: Tensor) -> Tensor:
        """Draw z ~ q(z|x, y) with the most probable y under q(y|x), flat, (B, latent_dim)."""
        return sample(self.posterior(with_planes(x, self.clusters(x), self.planes))).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        return self.likelihood(z.unflatten(-1, self.z_shape)).mean

    def posterior_mean(self, x: Tensor) -> Tensor:
        each = [self.posterior(with_planes(x, y, self.planes)).mean.flatten(1) for y in self._every(x)]
        return (self.classify(x).probs[..., None] * torch.stack(each, dim=1)).sum(1)


def _mixture(prior: Any) -> MixtureOfGaussiansPrior:
    if isinstance(prior, MixtureOfGaussiansPrior):
        return prior
    raise UserError(
        f"GMVAE has a cluster for each component of its prior, and {type(prior).__name__} is no mixture of "
        "Gaussians: set prior=mog and prior.num_components, or choose model=vae"
    )
