"""The convolutional networks of a ladder, whose resolution falls in the bottom-up pass."""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from latentlab.errors import UserError
from latentlab.nn import Depth, Shape
from latentlab.nn.conv import doubling, halved, halving
from latentlab.nn.ladder import Rungs
from latentlab.nn.layers import Activation, Normalisation, per_example
from latentlab.nn.resnet import ResidualBlock


class ConvRungs(Rungs):
    r"""Convolutional networks with maps of latents, in which each layer depends on all layers above it.

    The top-down pass is $h_l = r_l(h_{l+1} + W_l z_l)$ with residual blocks $r_l$. A stride-2 transposed convolution
    follows where the resolution changes.

    Three choices let a deep ladder train from its first step (Child 2021, and its code). With N blocks in the top-down
    pass, $W_l$ and the last convolution of each block are scaled by $1/\sqrt N$ at initialisation. The last convolution
    of $p(z_l|z_{>l})$ starts at zero.

    Args:
        x_shape: the shape (C, H, W) of one image.
        layers: the number of layers at full resolution, a half, a quarter, ...
        latent_channels: the channels of a layer's latents.
        width: the channels of all other maps.
        blocks: the number of residual blocks between two layers.
        activation: makes the nonlinearity.
        normalisation: makes the layer before it in a block from a number of channels; None for none.

    Raises:
        UserError: if `x_shape` is not the shape of an image or there is no layer, and for batch normalisation and
            dropout.
    """

    def __init__(
        self,
        x_shape: Shape,
        layers: Annotated[Sequence[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=1)] = (1, 1, 1),
        latent_channels: PositiveInt = 4,
        width: PositiveInt = 32,
        blocks: Depth = 1,
        activation: Activation = nn.SiLU,
        normalisation: Normalisation = None,
    ) -> None:
        if len(x_shape) != 3:
            raise UserError(f"ConvRungs reads images (C, H, W), not {tuple(x_shape)}: use model=ladder_vae")
        # How often each layer's resolution is halved. Index 0 is the image.
        self.halvings = [0, *[times for times, count in enumerate(layers) for _ in range(count)]]
        if len(self.halvings) == 1:
            raise UserError(f"model.rungs.layers={list(layers)}: a ladder needs at least one layer")
        self.x_shape = tuple(x_shape)
        self.width = width
        self.blocks = blocks
        self.activation = activation
        self.normalisation = normalisation
        self.d_shapes = [self._maps(width, layer) for layer in range(1, len(self.halvings))]
        self.latents = [self._maps(latent_channels, layer) for layer in range(1, len(self.halvings))]
        self.z_shapes = [*self.latents[:-1], (prod(self.latents[-1]),)]
        self.h_shape = (width, *self.x_shape[1:])

    def head(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        return ConvHead(in_shape, out_shape, self.activation)

    def up(self, layer: int) -> nn.Module:
        """Make u_l: residual blocks, after a convolution of the image (l = 1) or stride-2 convolutions."""
        first = [nn.Conv2d(self.x_shape[0], self.width, kernel_size=3, padding=1)] if layer == 1 else []
        halvings = self.halvings[layer] - self.halvings[layer - 1]
        return OnMaps(*first, *[halving(self.width, self.width) for _ in range(halvings)], *self._blocks())

    def down(self, layer: int) -> nn.Module:
        """Make w_l: the sum of maps and latents, residual blocks, and stride-2 transposed convolutions."""
        sizes = [halved(self.x_shape[1:], n) for n in range(self.halvings[layer - 1], self.halvings[layer])]
        doublings = [Doubling(self.width, size) for size in reversed(sizes)]
        z_dims = len(self.z_shapes[layer - 1])
        return Merge(
            self.latents[layer - 1], z_dims, self.width, self._initial_scale, *self._blocks(), *doublings
        )

    def expectation(self, layer: int) -> nn.Module:
        head = self._latent_head(layer)
        nn.init.zeros_(head.conv.weight)
        return head

    def evidence(self, layer: int) -> nn.Module:
        return Sum(OnMaps(self._block()), self._latent_head(layer))

    def _maps(self, channels: int, layer: int) -> Shape:
        return (channels, *halved(self.x_shape[1:], self.halvings[layer]))

    def _latent_head(self, layer: int) -> "ConvHead":
        return ConvHead(self.d_shapes[layer - 1], (2, *self.z_shapes[layer - 1]), self.activation)

    @property
    def _initial_scale(self) -> float:
        return 1 / sqrt(self.blocks * len(self.d_shapes))

    def _blocks(self) -> list[nn.Module]:
        return [self._block() for _ in range(self.blocks)]

    def _block(self) -> nn.Module:
        block = ResidualBlock(self.width, self.activation, self.normalisation)
        return shrunk(block, block.residual[-1], self._initial_scale)


@torch.no_grad()
def shrunk(module: nn.Module, part: nn.Module, factor: float) -> nn.Module:
    """Multiply the weight of one part of a module by a factor, and return the module."""
    weight = part.get_parameter("weight")
    weight.mul_(factor)
    return module


class OnMaps(nn.Module):
    """A sequence of layers on maps with any leading shape, (*, C, H, W) -> (*, C', H', W').

    Args:
        layers: the layers on maps (N, C, H, W).
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps.reshape(-1, *maps.shape[-3:])).unflatten(0, maps.shape[:-3])


class Doubling(nn.Module):
    """A stride-2 transposed convolution, cropped to a size, (N, width, h, w) -> (N, width, H, W).

    Args:
        width: the number of channels.
        size: H and W, each 2 h or 2 h - 1.
    """

    def __init__(self, width: int, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)
        self.layer = doubling(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        height, width = self.size
        return self.layer(maps)[..., :height, :width]


class ConvHead(nn.Module):
    """A nonlinearity and a convolution, (*, C, H, W) -> (*, *out_shape), with equally many outputs at every pixel.

    Args:
        in_shape: the shape (C, H, W) of the maps.
        out_shape: the shape of one output.
        activation: makes the nonlinearity.

    Raises:
        UserError: if the size of an output is not a multiple of H W.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        places = prod(in_shape[-2:])
        if len(in_shape) != 3 or prod(out_shape) % places:
            raise UserError(
                f"ConvHead keeps the size of its maps, {tuple(in_shape)}, and cannot return {tuple(out_shape)}: "
                "choose posterior=diagonal_normal, and a decoder of the maps' size"
            )
        self.out_shape = tuple(out_shape)
        self.activation = per_example(activation())
        self.conv = nn.Conv2d(in_shape[0], prod(out_shape) // places, kernel_size=3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.conv(self.activation(maps.reshape(-1, *maps.shape[-3:])))
        return out.reshape(*maps.shape[:-3], *self.out_shape)


class Sum(nn.Module):
    """A sequence of layers on the sum of d (B, ...) and h (*, B, ...).

    Args:
        layers: the layers.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, d: Tensor, h: Tensor) -> Tensor:
        return self.layers(d + h)


class Merge(nn.Module):
    r"""A sequence r of layers on the sum of maps and latents, $r(h + W z)$.

    Args:
        latents: the shape (C, H, W) of the latents as maps.
        z_dims: the number of dimensions of one latent, 1 if it is flat.
        width: the number of channels of h.
        factor: the factor of W at initialisation.
        layers: the layers of r.
    """

    def __init__(self, latents: Shape, z_dims: int, width: int, factor: float, *layers: nn.Module) -> None:
        super().__init__()
        self.latents = tuple(latents)
        self.z_dims = z_dims
        conv = nn.Conv2d(latents[0], width, kernel_size=1)
        self.project = OnMaps(shrunk(conv, conv, factor))
        self.layers = OnMaps(*layers)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        lead = z.shape[: z.ndim - self.z_dims]
        return self.layers(h + self.project(z.reshape(*lead, *self.latents)))
