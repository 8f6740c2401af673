"""What every generative model offers, whatever its latents."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from latentlab.data.protocols import Protocol


class GenerativeModel(nn.Module, ABC):
    """A generative model of images x of shape `x_shape`; x is (B, *x_shape) everywhere below.

    Attributes:
        x_shape: the shape of one image.
        latent_dim: the number of latents that `encode` returns for one image.
    """

    x_shape: tuple[int, ...]
    latent_dim: int

    @abstractmethod
    def terms(self, x: Tensor, samples: int = 1) -> dict[str, Tensor]:
        """The bound `elbo` and its parts for each example, (B,), in nats; draws `samples` latents per example."""

    @abstractmethod
    def generate(self, n: int, mean: bool = False) -> Tensor:
        """n draws x ~ p(x), or with `mean` the means of p(x|z) of the same z under the same seed, (n, *x_shape)."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """A draw z ~ q(z|x) for each image, flat, (B, latent_dim)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The means of p(x|z) for flat z (B, latent_dim), (B, *x_shape)."""

    @abstractmethod
    def posterior_mean(self, x: Tensor) -> Tensor:
        """The means of q(z|x), flat, (B, latent_dim)."""

    @abstractmethod
    def check(self, protocol: Protocol) -> None:
        """Refuse data that the model's likelihood does not score.

        Raises:
            UserError: with the reason and the protocols that work.
        """

    def reconstruct(self, x: Tensor) -> Tensor:
        """The means of p(x|z) for z ~ q(z|x), (B, *x_shape)."""
        return self.decode(self.encode(x))
