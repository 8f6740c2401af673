"""The interface of all generative models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from latentlab.batch import Batch
from latentlab.errors import UserError
from latentlab.protocols import Protocol
from latentlab.trace import Scored


class GenerativeModel(Scored, ABC):
    """A generative model of images of shape `x_shape`.

    In every method, x is the observation: a tensor of images (B, *x_shape), or what `observe` returns instead.

    Attributes:
        weighted: True if the call returns a trace, whose importance weights estimate log p(x).
        labelled: True if the observation includes labels.
        infers_labels: True if labels of training examples may be missing.
        learned_inference: True if q(z|x) is learned.
        generative: True if the model has a distribution p(x) to draw from.
        x_shape: the shape of one image.
        eval_samples: the default number of draws of the latents per example in an evaluation.
        latent_dim: the number of latents that `encode` returns for each image.
        pretrained: the checkpoint whose weights the model adopts before training, or None.
    """

    weighted: ClassVar[bool] = True
    labelled: bool = False
    infers_labels: ClassVar[bool] = False
    learned_inference: bool = True
    generative: ClassVar[bool] = True
    eval_samples: ClassVar[int] = 1
    x_shape: tuple[int, ...]
    latent_dim: int
    pretrained: str | None = None

    @abstractmethod
    def generate(self, n: int, mean: bool = False) -> Tensor:
        """Draw n images from p(x), or the means of p(x|z) for the same z under the same seed, (n, *x_shape)."""

    def sample_latents(self, n: int) -> Tensor:
        """Draw n latents from p(z), flat as `encode` returns them, (n, latent_dim).

        Raises:
            UserError: for a model without p(z).
        """
        raise UserError(
            f"{type(self).__name__} has no distribution p(z) to draw latents from: choose model=vae"
        )

    @abstractmethod
    def encode(self, x: Any) -> Tensor:
        """Draw z ~ q(z|x) for each image, flat, (B, latent_dim)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The means of p(x|z) for flat z (B, latent_dim), (B, *x_shape)."""

    @abstractmethod
    def posterior_mean(self, x: Any) -> Tensor:
        """The means of q(z|x), flat, (B, latent_dim)."""

    @abstractmethod
    def check(self, protocol: Protocol) -> None:
        """Refuse data that the likelihood does not score.

        Raises:
            UserError: with the reason and the protocols that work.
        """

    def check_classes(self, n: int) -> None:
        """Refuse labels 0 to n - 1 that the model has no classes for.

        Raises:
            UserError: with the number of classes that is needed.
        """

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Adopt weights of the model whose checkpoint is `pretrained`.

        Raises:
            UserError: if they do not fit.
        """

    def observe(self, batch: Batch) -> Any:
        """The part of a batch that the model observes."""
        return batch.x

    def scored_as(self, protocol: Protocol) -> Protocol:
        """The protocol that the model's scores refer to, for data of `protocol`."""
        return protocol

    def test_terms(self, x: Any, samples: int = 1) -> dict[str, Tensor]:
        """The terms that are averaged over the test set, each (B,)."""
        return self.terms(x, samples=samples)

    def initialise(self, x: Any) -> None:
        """Adapt to training examples before training starts. Draws nothing."""

    def anneal(self, step: int) -> None:
        """Set everything that changes with the training step. Called before each step."""

    def reconstruct(self, x: Any) -> Tensor:
        """The means of p(x|z) for z ~ q(z|x), (B, *x_shape)."""
        return self.decode(self.encode(x))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's tensors."""
    return next(chain(model.parameters(), model.buffers())).device
