"""The networks of a ladder of maps: convolutions, at falling resolutions upwards."""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from latentlab.errors import UserError
from latentlab.nn import Shape
from latentlab.nn.conv import doubling, halved, halving
from latentlab.nn.ladder import Rungs
from latentlab.nn.layers import Activation, Normalisation, per_example
from latentlab.nn.resnet import ResidualBlock


class ConvRungs(Rungs):
    r"""Convolutional: maps of latents at falling resolutions, each layer conditioned on all above it.

    A layer adds its latents to the top-down maps, $h_l = r_l(h_{l+1} + W_l z_l)$, with residual blocks $r_l$, and a
    doubling of height and width where the next resolution begins. For a deep ladder to train from its first step, $W_l$
    and the last convolution of each block start at $1/\sqrt N$ of their size, for N blocks on the way down, and the
    network of $p(z_l|z_{>l})$ with a last convolution of zeros (Child 2021, and its code).

    Args:
        x_shape: the shape (C, H, W) of one image.
        layers: the number of layers at each resolution: the image's, a half, a quarter, ...; 0 for none.
        latent_channels: the channels of a layer's latents.
        width: the channels of all other maps.
        blocks: the number of residual blocks between two layers.
        activation: makes the nonlinearity.
        normalisation: makes what comes before it in a block, of the given number of channels; None for nothing.

    Raises:
        UserError: when `x_shape` is not that of an image, or there is no layer; for batch normalisation and dropout.
    """

    def __init__(
        self,
        x_shape: Shape,
        layers: Annotated[Sequence[NonNegativeInt], Field(min_length=1)] = (1, 1, 1),
        latent_channels: PositiveInt = 4,
        width: PositiveInt = 32,
        blocks: PositiveInt = 1,
        activation: Activation = nn.SiLU,
        normalisation: Normalisation = None,
    ) -> None:
        if len(x_shape) != 3:
            raise UserError(f"ConvRungs reads images (C, H, W), not {tuple(x_shape)}: use model=ladder_vae")
        # The number of halvings before each layer, preceded by that of the image itself.
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
        """A convolution of d_L."""
        return ConvHead(in_shape, out_shape, self.activation)

    def up(self, layer: int) -> nn.Module:
        """Halvings, if a resolution begins here, and residual blocks; a convolution of the image first."""
        first = [nn.Conv2d(self.x_shape[0], self.width, kernel_size=3, padding=1)] if layer == 1 else []
        halvings = self.halvings[layer] - self.halvings[layer - 1]
        return OnMaps(*first, *[halving(self.width, self.width) for _ in range(halvings)], *self._blocks())

    def down(self, layer: int) -> nn.Module:
        """Residual blocks of the maps above and the latents, and doublings, if a resolution ends here."""
        sizes = [halved(self.x_shape[1:], n) for n in range(self.halvings[layer - 1], self.halvings[layer])]
        doublings = [Doubling(self.width, size) for size in reversed(sizes)]
        z_dims = len(self.z_shapes[layer - 1])
        return Merge(self.latents[layer - 1], z_dims, self.width, self._residual, *self._blocks(), *doublings)

    def expectation(self, layer: int) -> nn.Module:
        """A convolution of the maps above, zero at the start."""
        head = self._latent_head(layer)
        nn.init.zeros_(head.conv.weight)
        return head

    def evidence(self, layer: int) -> nn.Module:
        """A residual block and a convolution of the sum of both maps."""
        return Sum(OnMaps(self._block()), self._latent_head(layer))

    def _maps(self, channels: int, layer: int) -> Shape:
        return (channels, *halved(self.x_shape[1:], self.halvings[layer]))

    def _latent_head(self, layer: int) -> "ConvHead":
        return ConvHead(self.d_shapes[layer - 1], (2, *self.z_shapes[layer - 1]), self.activation)

    @property
    def _residual(self) -> float:
        return 1 / sqrt(self.blocks * len(self.d_shapes))

    def _blocks(self) -> list[nn.Module]:
        return [self._block() for _ in range(self.blocks)]

    def _block(self) -> nn.Module:
        block = ResidualBlock(self.width, self.activation, self.normalisation)
        return shrunk(block, block.residual[-1], self._residual)


@torch.no_grad()
def shrunk(module: nn.Module, part: nn.Module, factor: float) -> nn.Module:
    """The module, with the weight of one of its parts multiplied by a factor."""
    weight = part.get_parameter("weight")
    weight.mul_(factor)
    return module


class OnMaps(nn.Module):
    """Layers of maps (N, C, H, W), for any leading shape, (*, C, H, W) -> (*, C', H', W').

    Args:
        layers: the layers, one after the other.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        """(*, C, H, W) -> (*, C', H', W')."""
        return self.layers(maps.reshape(-1, *maps.shape[-3:])).unflatten(0, maps.shape[:-3])


class Doubling(nn.Module):
    """A transposed convolution of stride 2, cut to a size, (N, width, h, w) -> (N, width, H, W).

    Args:
        width: the number of channels.
        size: H and W, 2 h and 2 w or one less.
    """

    def __init__(self, width: int, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)
        self.layer = doubling(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, width, h, w) -> (N, width, H, W)."""
        height, width = self.size
        return self.layer(maps)[..., :height, :width]


class ConvHead(nn.Module):
    """A nonlinearity and a convolution, (*, C, H, W) -> (*, *out_shape), as many numbers at each place.

    Args:
        in_shape: the shape (C, H, W) of the maps.
        out_shape: the shape of one output, whose entries divide into the H W places.
        activation: makes the nonlinearity.

    Raises:
        UserError: when they do not.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        places = prod(in_shape[-2:])
        if len(in_shape) != 3 or prod(out_shape) % places:
            raise UserError(
                f"ConvHead has as many outputs at each place of its maps {tuple(in_shape)}, which does not make "
                f"{tuple(out_shape)}: choose posterior=diagonal_normal, and a decoder of the maps' size"
            )
        self.out_shape = tuple(out_shape)
        self.activation = per_example(activation())
        self.conv = nn.Conv2d(in_shape[0], prod(out_shape) // places, kernel_size=3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(*, C, H, W) -> (*, *out_shape)."""
        out = self.conv(self.activation(maps.reshape(-1, *maps.shape[-3:])))
        return out.reshape(*maps.shape[:-3], *self.out_shape)


class Sum(nn.Module):
    """Layers of the sum of two maps.

    Args:
        layers: the layers, one after the other.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, d: Tensor, h: Tensor) -> Tensor:
        """Of d (B, ...) and h (*, B, ...)."""
        return self.layers(d + h)


class Merge(nn.Module):
    r"""Layers of the maps above with the latents added, $r(h + W z)$.

    Args:
        latents: the shape (C, H, W) of the latents as maps.
        z_dims: the number of dimensions of one latent, 1 where it is flat.
        width: the channels of h.
        factor: what W is multiplied by at the start.
        layers: the layers r, one after the other.
    """

    def __init__(self, latents: Shape, z_dims: int, width: int, factor: float, *layers: nn.Module) -> None:
        super().__init__()
        self.latents = tuple(latents)
        self.z_dims = z_dims
        conv = nn.Conv2d(latents[0], width, kernel_size=1)
        self.project = OnMaps(shrunk(conv, conv, factor))
        self.layers = OnMaps(*layers)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """(*, width, H, W) and (*, *z_shape) -> the maps below."""
        lead = z.shape[: z.ndim - self.z_dims]
        return self.layers(h + self.project(z.reshape(*lead, *self.latents)))
