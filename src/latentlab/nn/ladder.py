"""The networks of a ladder: a deterministic bottom-up pass over the image, and a top-down pass over the latents.

The bottom-up pass is $d_l = u_l(d_{l-1})$ with $d_0 = x$. The top-down pass is $h_l = w_l(h_{l+1}, z_l)$, where the
state $h_{l+1}$ depends on all latents above layer l. Layer 1 is next to the data, and layer L is the top.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from latentlab.errors import UserError
from latentlab.nn import Depth, NetworkFactory, Shape
from latentlab.nn.layers import Activation, Normalisation, normalised
from latentlab.nn.mlp import MLP, Linear


class Rungs(ABC):
    """A maker of the networks of each layer.

    Attributes:
        head: makes the network from d_L to the parameters of q(z_L|d_L).
        d_shapes: the shape of each d_l.
        z_shapes: the shape of each latent. The top one is flat, so that any posterior and prior of vectors fits it.
        h_shape: the shape of h_1, the input of p(x|z).
    """

    head: NetworkFactory
    d_shapes: Sequence[Shape]
    z_shapes: Sequence[Shape]
    h_shape: Shape

    @abstractmethod
    def up(self, layer: int) -> nn.Module:
        """Make u_l, d_{l-1} -> d_l."""

    @abstractmethod
    def down(self, layer: int) -> nn.Module:
        """Make w_l, (h_{l+1}, z_l) -> h_l. At the top h_{L+1} is a zero that broadcasts."""

    @abstractmethod
    def expectation(self, layer: int) -> nn.Module:
        """Make the network of p(z_l|z_{>l}), h_{l+1} -> (2, *z_shape), for l < L."""

    @abstractmethod
    def evidence(self, layer: int) -> nn.Module:
        """Make the network of the image's term in q(z_l|z_{>l}, x), (d_l, h_{l+1}) -> (2, *z_shape), for l < L."""


RungsFactory = Callable[[Shape], Rungs]


class DenseRungs(Rungs):
    r"""Fully connected networks, with $h_l = z_l$: each layer depends on the layer above alone.

    Sønderby et al. 2016, section 2. The networks between z_{l-1} and z_l, and between d_{l-1} and d_l, have `depth`
    hidden layers of the width of layer l.

    Args:
        x_shape: the shape of one image.
        latent_dims: the number of latents of each layer.
        widths: the width of each layer's networks.
        depth: the number of their hidden layers.
        activation: makes the nonlinearity.
        normalisation: makes the layer before it from a width, such as `torch.nn.LayerNorm`; None for none.

    Raises:
        UserError: if the numbers of widths and layers differ, and for batch normalisation and dropout.
    """

    head = Linear

    def __init__(
        self,
        x_shape: Shape,
        latent_dims: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (64, 32, 16),
        widths: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (512, 256, 128),
        depth: Depth = 2,
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
        [width] = self.d_shapes[layer - 1]
        last = normalised(nn.Identity(), width, self.normalisation, self.activation)
        return nn.Sequential(self._mlp(self.below[layer - 1], (width,), width, self.depth - 1), *last[1:])

    def down(self, layer: int) -> nn.Module:
        return LatentAlone()

    def expectation(self, layer: int) -> nn.Module:
        [width] = self.d_shapes[layer]
        return self._mlp(self.z_shapes[layer], (2, *self.z_shapes[layer - 1]), width, self.depth)

    def evidence(self, layer: int) -> nn.Module:
        return EvidenceAlone(Linear(self.d_shapes[layer - 1], (2, *self.z_shapes[layer - 1])))

    def _mlp(self, in_shape: Shape, out_shape: Shape, width: int, depth: int) -> MLP:
        return MLP(in_shape, out_shape, [width] * depth, self.activation, self.normalisation)


class LatentAlone(nn.Module):
    """The top-down pass without memory, (h, z) -> z."""

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        return z


class EvidenceAlone(nn.Module):
    """A network of d that ignores h.

    Args:
        network: the network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, d: Tensor, h: Tensor) -> Tensor:
        return self.network(d)
