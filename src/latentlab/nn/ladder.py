"""The networks of a ladder: a deterministic way up from the image, and a way down through the latents.

Upwards $d_l = u_l(d_{l-1})$ with $d_0 = x$; downwards $h_l = w_l(h_{l+1}, z_l)$, where $h_{l+1}$ stands for all latents
above layer l, and $h_1$ for all of them. Layers have the numbers of their latents, from 1 next to the data to L on top.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from latentlab.errors import UserError
from latentlab.nn import NetworkFactory, Shape
from latentlab.nn.layers import Activation, Normalisation, normalised
from latentlab.nn.mlp import MLP, Linear


class Rungs(ABC):
    """Makes the networks of a ladder, layer by layer.

    Attributes:
        head: makes the network from d_L to the parameters of the top layer.
        d_shapes: the shape of each d_l.
        z_shapes: the shape of each latent; the top one is flat, so that any posterior and prior of vectors fits it.
        h_shape: the shape of h_1, from which x is drawn.
    """

    head: NetworkFactory
    d_shapes: Sequence[Shape]
    z_shapes: Sequence[Shape]
    h_shape: Shape

    @abstractmethod
    def up(self, layer: int) -> nn.Module:
        """The way up d_{l-1} -> d_l."""

    @abstractmethod
    def down(self, layer: int) -> nn.Module:
        """The way down (h_{l+1}, z_l) -> h_l; at the top h_{L+1} is a zero that broadcasts."""

    @abstractmethod
    def expectation(self, layer: int) -> nn.Module:
        """What the layers above say of z_l, h_{l+1} -> (2, *z_shape), for l < L."""

    @abstractmethod
    def evidence(self, layer: int) -> nn.Module:
        """What the image says of z_l, (d_l, h_{l+1}) -> (2, *z_shape), for l < L."""


RungsFactory = Callable[[Shape], Rungs]


class DenseRungs(Rungs):
    r"""Fully connected: z_l depends on the layer above alone, $h_l = z_l$, as in Sønderby et al. 2016 (section 2).

    The networks between z_{l-1} and z_l, or d_{l-1} and d_l, have `depth` hidden layers of the width of layer l.

    Args:
        x_shape: the shape of one image.
        latent_dims: the number of latents of each layer.
        widths: the width of each layer's networks.
        depth: the number of their hidden layers.
        activation: makes the nonlinearity.
        normalisation: makes what comes before it, of the given width, such as `torch.nn.LayerNorm`; None for nothing.

    Raises:
        UserError: when there are not as many widths as layers; for batch normalisation and dropout.
    """

    head = Linear

    def __init__(
        self,
        x_shape: Shape,
        latent_dims: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (64, 32, 16),
        widths: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (512, 256, 128),
        depth: PositiveInt = 2,
        activation: Activation = nn.ReLU,
        normalisation: Normalisation = None,
    ) -> None:
        if len(latent_dims) != len(widths):
            raise UserError(
                f"model.rungs.widths={list(widths)}: a ladder of {len(latent_dims)} layers (latent_dims="
                f"{list(latent_dims)}) needs as many widths"
            )
        self.depth = depth
        self.activation = activation
        self.normalisation = normalisation
        self.d_shapes = [(width,) for width in widths]
        self.z_shapes = [(size,) for size in latent_dims]
        self.h_shape = self.z_shapes[0]
        self.below = [tuple(x_shape), *self.d_shapes]

    def up(self, layer: int) -> nn.Module:
        """Hidden layers."""
        [width] = self.d_shapes[layer - 1]
        last = normalised(nn.Identity(), width, self.normalisation, self.activation)
        return nn.Sequential(self._mlp(self.below[layer - 1], (width,), width, self.depth - 1), *last[1:])

    def down(self, layer: int) -> nn.Module:
        """The latent itself."""
        return LatentAlone()

    def expectation(self, layer: int) -> nn.Module:
        """A multilayer perceptron of z_{l+1}."""
        [width] = self.d_shapes[layer]
        return self._mlp(self.z_shapes[layer], (2, *self.z_shapes[layer - 1]), width, self.depth)

    def evidence(self, layer: int) -> nn.Module:
        """A linear map of d_l."""
        return EvidenceAlone(Linear(self.d_shapes[layer - 1], (2, *self.z_shapes[layer - 1])))

    def _mlp(self, in_shape: Shape, out_shape: Shape, width: int, depth: int) -> MLP:
        return MLP(in_shape, out_shape, [width] * depth, self.activation, self.normalisation)


class LatentAlone(nn.Module):
    """The way down that forgets what is above the latent."""

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """z."""
        return z


class EvidenceAlone(nn.Module):
    """What the image says, whatever the layers above say.

    Args:
        network: the network of d_l.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, d: Tensor, h: Tensor) -> Tensor:
        """The network of d alone."""
        return self.network(d)
