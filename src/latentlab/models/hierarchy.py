"""The interface of models with several layers of latents."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentlab.errors import UserError
from latentlab.likelihoods import Likelihood
from latentlab.models.base import GenerativeModel
from latentlab.nn import Shape
from latentlab.posteriors import Posterior
from latentlab.priors import Prior
from latentlab.protocols import Protocol
from latentlab.trace import Traced


class Hierarchy(GenerativeModel, Traced, ABC):
    """A model with L layers of real latents, z_1 next to the data and z_L at the top.

    Every list of layers starts at z_1. Flat latents are all layers concatenated, z_1 first.

    Attributes:
        z_shapes: the shape of one latent of each layer.
        prior: p(z_L).
        likelihood: p(x|.).
        layer_name: the name of a layer's number in figures.
    """

    layer_name: ClassVar[str] = "layer"
    z_shapes: tuple[Shape, ...]
    prior: Prior
    likelihood: Likelihood

    @abstractmethod
    def descend(self, n: int, given: Sequence[Tensor] = ()) -> list[Tensor]:
        """Draw n latents of every layer, each (n, *z_shape), below the topmost layers that are `given`."""

    @abstractmethod
    def px(self, zs: Sequence[Tensor]) -> Distribution:
        """p(x|z) for latents of every layer, each (*, *z_shape), batch shape *."""

    @abstractmethod
    def posterior_means(self, x: Tensor) -> list[Tensor]:
        """The mean of each layer's q at the means of the layers that it depends on, each (B, *z_shape)."""

    @property
    def reparametrised(self) -> bool:
        return True

    @property
    def discrete(self) -> bool:
        return False

    def generate(self, n: int, mean: bool = False) -> Tensor:
        px = self.px(self.descend(n))
        return px.mean if mean else px.sample()

    def sample_latents(self, n: int) -> Tensor:
        return flat(self.descend(n))

    def encode(self, x: Tensor) -> Tensor:
        return flat([z[0] for z in self(x).z])

    def decode(self, z: Tensor) -> Tensor:
        parts = z.split([prod(shape) for shape in self.z_shapes], dim=-1)
        zs = [part.unflatten(-1, shape) for part, shape in zip(parts, self.z_shapes, strict=True)]
        return self.px(zs).mean

    def posterior_mean(self, x: Tensor) -> Tensor:
        return flat(self.posterior_means(x))

    def check(self, protocol: Protocol) -> None:
        self.likelihood.check(protocol)


def flat(zs: Sequence[Tensor]) -> Tensor:
    """Concatenate latents of every layer, each (B, *z_shape), as (B, latent_dim)."""
    return torch.cat([z.flatten(1) for z in zs], dim=1)


def check_real(posterior: Posterior) -> None:
    """Refuse a posterior of one-hot latents.

    Raises:
        UserError: for one.
    """
    if posterior.discrete:
        raise UserError(
            f"{type(posterior).__name__} draws one-hot latents, and the layers of a hierarchy are real: "
            "choose posterior=diagonal_normal or full_rank_normal, or model=categorical_vae"
        )
