"""A prior fitted to the latents of a trained model, which stays as it is (Ghosh et al. 2020, section 4)."""

from collections.abc import Mapping, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from latentlab.errors import UserError
from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.autoencoder import Autoencoder
from latentlab.models.pretrained import adopt
from latentlab.models.vae import VAE
from latentlab.nn import NetworkFactory
from latentlab.posteriors import PosteriorFactory
from latentlab.priors import Prior, PriorFactory


class ExPostVAE(VAE):
    r"""A trained VAE whose prior alone is learned: the ELBO is maximised by $E_{q(z)}[\log p(z)]$.

    Args:
        pretrained: the checkpoint of the trained model, read by the Lightning module, which calls `adopt`.
        latent_dim: the number of latents.
        encoder: makes the posterior's network.
        decoder: makes the likelihood's network.
        posterior: makes q(z|x).
        likelihood: makes p(x|z).
        prior: makes p(z).
        x_shape: the shape of one image.
        decoders: the number of decoders.

    Raises:
        UserError: for a prior without parameters.
    """

    def __init__(
        self,
        pretrained: str,
        latent_dim: PositiveInt,
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
        decoders: PositiveInt = 1,
    ) -> None:
        super().__init__(latent_dim, encoder, decoder, posterior, likelihood, prior, x_shape, decoders)
        self.pretrained = pretrained
        self.posterior.requires_grad_(False)
        self.likelihood.requires_grad_(False)
        check_learned(self.prior)

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        adopt(self, ("posterior", "likelihood"), state, self.pretrained)

    def initialise(self, x: Tensor) -> None:
        self.prior.initialise(x)
        q = self.posterior(x)
        self.prior.fit(q.mean, q.variance.mean(0))


class ExPostAutoencoder(Autoencoder):
    r"""A trained autoencoder with a density p(z) of its latents z(x), learned by $\log p(z(x))$.

    With it, the autoencoder draws images. It still has no bound on log p(x).

    Args:
        pretrained: the checkpoint of the trained model, read by the Lightning module, which calls `adopt`.
        latent_dim: the number of latents.
        encoder: makes the network of z(x).
        decoder: makes the likelihood's network.
        likelihood: makes p(x|z).
        prior: makes p(z).
        x_shape: the shape of one image.

    Raises:
        UserError: for a prior without parameters.
    """

    bound = "log_prior"
    generative = True

    def __init__(
        self,
        pretrained: str,
        latent_dim: PositiveInt,
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__(latent_dim, encoder, decoder, likelihood, x_shape)
        self.pretrained = pretrained
        self.requires_grad_(False)
        self.prior = prior(event_shape=(self.latent_dim,))
        check_learned(self.prior)

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        adopt(self, ("encoder", "likelihood"), state, self.pretrained)

    def initialise(self, x: Tensor) -> None:
        self.prior.initialise(x)
        z = self.encode(x)
        self.prior.fit(z, torch.zeros_like(z[0]))

    def terms(self, x: Tensor, samples: int = 1) -> dict[str, Tensor]:
        """The scores `log_prior` and `reconstruction` for each example, each (B,). Draws nothing."""
        z = self.encoder(x)
        return {"log_prior": self.prior().log_prob(z), "reconstruction": self.likelihood(z).log_prob(x)}

    def sample_latents(self, n: int) -> Tensor:
        return self.prior().sample((n,))

    def generate(self, n: int, mean: bool = False) -> Tensor:
        px = self.likelihood(self.sample_latents(n))
        return px.mean if mean else px.sample()


def check_learned(prior: Prior) -> None:
    """Refuse a prior without parameters.

    Raises:
        UserError: with those that work.
    """
    if not any(p.requires_grad for p in prior.parameters()):
        raise UserError(
            f"{type(prior).__name__} has nothing to learn: choose prior=mog, prior=flow or prior=vamp"
        )
