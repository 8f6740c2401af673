"""What every generative model offers, whatever its latents."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from latentlab.protocols import Protocol


class GenerativeModel(nn.Module, ABC):
    """A generative model of images of shape `x_shape`.

    What it observes, x everywhere below, is a batch of images (B, *x_shape), with their labels where it models those.

    Attributes:
        bounded: whether it has a bound on the log-density of what it observes.
        x_shape: the shape of one image.
        latent_dim: the number of latents that `encode` returns for one image.
        weighted: whether log p(x) is estimated by importance weights, those of the model's trace.
        learned_inference: whether q(z|x) is learned, so that it means something which latents it uses.
    """

    bounded: ClassVar[bool] = True
    weighted: ClassVar[bool] = True
    learned_inference: bool = True
    x_shape: tuple[int, ...]
    latent_dim: int

    @abstractmethod
    def terms(self, x: Any, samples: int = 1) -> dict[str, Tensor]:
        """The bound `elbo`, first, and its parts for each example, (B,), in nats, by `samples` draws of the latents."""

    @abstractmethod
    def generate(self, n: int, mean: bool = False) -> Tensor:
        """n draws x ~ p(x), or with `mean` the means of p(x|z) of the same z under the same seed, (n, *x_shape)."""

    @abstractmethod
    def encode(self, x: Any) -> Tensor:
        """A draw z ~ q(z|x) for each image, flat, (B, latent_dim)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The means of p(x|z) for flat z (B, latent_dim), (B, *x_shape)."""

    @abstractmethod
    def posterior_mean(self, x: Any) -> Tensor:
        """The means of q(z|x), flat, (B, latent_dim)."""

    @abstractmethod
    def check(self, protocol: Protocol) -> None:
        """Refuse data that the model's likelihood does not score.

        Raises:
            UserError: with the reason and the protocols that work.
        """

    def scored_as(self, protocol: Protocol) -> Protocol:
        """The protocol that the model's numbers are to be read under, for data of `protocol`: that one, as a rule."""
        return protocol

    def report(self, x: Any, samples: int = 1) -> dict[str, Tensor]:
        """What is summed over the test set: the terms, and what else a model has to say of its bound, each (B,)."""
        return self.terms(x, samples=samples)

    def initialise(self, x: Any) -> None:
        """Adapt to training examples, as the model observes them, before training starts; draws nothing."""

    def anneal(self, step: int) -> None:
        """Set what changes with the training step; called before each."""

    def reconstruct(self, x: Any) -> Tensor:
        """The means of p(x|z) for z ~ q(z|x), (B, *x_shape)."""
        return self.decode(self.encode(x))
