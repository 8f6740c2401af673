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
    r"""The autoencoder $x \mapsto z(x)$ with the reconstruction score $\log p(x|z(x))$, in nats.

    The model has no distribution of z, so it has no bound on log p(x) and cannot draw x.

    Args:
        latent_dim: the number of latents.
        encoder: makes the network of z(x).
        decoder: makes the likelihood's network.
        likelihood: makes p(x|z).
        x_shape: the shape of one image.
    """

    weighted = False
    bounded = False
    generative = False
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
        """The score `reconstruction` for each example, (B,). Draws nothing."""
        return {"reconstruction": self.likelihood(self.encoder(x)).log_prob(x)}

    def generate(self, n: int, mean: bool = False) -> Tensor:
        """Raise a UserError: the latents have no distribution to draw from."""
        raise UserError(
            "Autoencoder has no distribution of its latents to draw from and generates no images: choose model=vae"
        )

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    posterior_mean = encode

    def decode(self, z: Tensor) -> Tensor:
        return self.likelihood(z).mean

    def initialise(self, x: Tensor) -> None:
        self.likelihood.initialise(x)

    def check(self, protocol: Protocol) -> None:
        self.likelihood.check(protocol)
