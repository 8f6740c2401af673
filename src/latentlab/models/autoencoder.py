"""The deterministic autoencoder."""

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor

from latentlab.errors import UserError
from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.base import GenerativeModel
from latentlab.nn import NetworkFactory
from latentlab.protocols import Protocol


class Autoencoder(GenerativeModel):
    r"""The autoencoder $x \mapsto z(x)$ with $\log p(x|z(x))$, the score of the reconstruction, in nats.

    Nothing is marginalised: no distribution of z is learned or assumed, so that there is neither a bound on log p(x)
    nor a way to draw x.

    Args:
        latent_dim: the number of latents.
        encoder: makes the network of z(x).
        decoder: makes the likelihood's network.
        likelihood: makes p(x|z).
        x_shape: the shape of one image.
    """

    bounded = False
    bound = "reconstruction"

    def __init__(
        self,
        latent_dim: PositiveInt,
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        likelihood: LikelihoodFactory,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.encoder = encoder(self.x_shape, (latent_dim,))
        self.likelihood = likelihood(network=decoder, in_shape=(latent_dim,), x_shape=self.x_shape)

    def terms(self, x: Tensor, samples: int = 1) -> dict[str, Tensor]:
        """`reconstruction`, log p(x|z(x)) of each example, (B,), and no `elbo`; nothing is drawn."""
        return {"reconstruction": self.likelihood(self.encoder(x)).log_prob(x)}

    def generate(self, n: int, mean: bool = False) -> Tensor:
        """Refused.

        Raises:
            UserError: always.
        """
        raise UserError(
            "Autoencoder has no distribution of its latents to draw from, and generates nothing: choose model=vae"
        )

    def encode(self, x: Tensor) -> Tensor:
        """z(x), (B, latent_dim)."""
        return self.encoder(x)

    posterior_mean = encode

    def decode(self, z: Tensor) -> Tensor:
        """The means of p(x|z) for z (B, latent_dim), (B, *x_shape)."""
        return self.likelihood(z).mean

    def initialise(self, x: Tensor) -> None:
        """Adapt the likelihood to training images (N, *x_shape)."""
        self.likelihood.initialise(x)

    def check(self, protocol: Protocol) -> None:
        """Refuse data that the likelihood does not score."""
        self.likelihood.check(protocol)
