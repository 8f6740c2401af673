"""What models with several layers of latents share, whichever way their inference runs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentlab.likelihoods import Likelihood
from latentlab.models.base import GenerativeModel
from latentlab.nn import Shape
from latentlab.priors import Prior
from latentlab.protocols import Protocol
from latentlab.trace import Traced


class Hierarchy(GenerativeModel, Traced, ABC):
    """A model with L layers of real latents, z_1 next to the data and z_L at the top; a list of layers starts at z_1.

    Flat latents are those of all layers, z_1 first.

    Attributes:
        z_shapes: the shape of one latent of each layer.
        prior: p(z_L).
        likelihood: p(x|.).
        layer_name: what a figure calls the number of a layer.
    """

    layer_name: ClassVar[str] = "layer"
    z_shapes: tuple[Shape, ...]
    prior: Prior
    likelihood: Likelihood

    @abstractmethod
    def descend(self, n: int, given: Sequence[Tensor] = ()) -> list[Tensor]:
        """n ancestral draws of every layer, each (n, *z_shape); the topmost that are `given` are kept as they are."""

    @abstractmethod
    def px(self, zs: Sequence[Tensor]) -> Distribution:
        """p(x|z) for latents of every layer, each (*, *z_shape), batch shape *."""

    @abstractmethod
    def posterior_means(self, x: Tensor) -> list[Tensor]:
        """The mean of each layer's q, given the means of the layers that it depends on, each (B, *z_shape)."""

    @property
    def reparametrised(self) -> bool:
        """True: every layer's draws carry a path."""
        return True

    @property
    def discrete(self) -> bool:
        """False: all latents are real."""
        return False

    def generate(self, n: int, mean: bool = False) -> Tensor:
        """n draws x ~ p(x), or the means of p(x|z), (n, *x_shape)."""
        px = self.px(self.descend(n))
        return px.mean if mean else px.sample()

    def encode(self, x: Tensor) -> Tensor:
        """A draw z ~ q(z|x) for each image, flat, (B, latent_dim)."""
        return torch.cat([z[0].flatten(1) for z in self(x).z], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        """The means of p(x|z) for flat z (B, latent_dim), (B, *x_shape)."""
        parts = z.split([prod(shape) for shape in self.z_shapes], dim=-1)
        zs = [part.unflatten(-1, shape) for part, shape in zip(parts, self.z_shapes, strict=True)]
        return self.px(zs).mean

    def posterior_mean(self, x: Tensor) -> Tensor:
        """`posterior_means`, flat, (B, latent_dim)."""
        return torch.cat([mean.flatten(1) for mean in self.posterior_means(x)], dim=1)

    def check(self, protocol: Protocol) -> None:
        """Refuse data that the likelihood does not score."""
        self.likelihood.check(protocol)
