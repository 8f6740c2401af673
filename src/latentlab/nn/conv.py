"""Convolutional networks. Each stage of an encoder halves height and width, each stage of a decoder doubles them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil, prod
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from latentlab.errors import UserError
from latentlab.nn import Shape
from latentlab.nn.layers import Activation, Normalisation, normalised, per_example
from latentlab.nn.mlp import MLP

Channels = Annotated[Sequence[PositiveInt], Field(min_length=1)]
Stage = Callable[[int, int], nn.Module]


class ImageEncoder(nn.Module):
    """Stages that halve height and width, then a multilayer perceptron, (*, C, H, W) -> (*, *out_shape).

    Args:
        in_shape: the shape (C, H, W) of one image.
        out_shape: the shape of one output.
        channels: the number of channels after each stage.
        hidden: the widths of the perceptron's hidden layers.
        activation: makes the perceptron's nonlinearity.
        stage: makes a stage from its input and output channels.

    Raises:
        UserError: if inputs are not images.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Sequence[int],
        hidden: Sequence[int],
        activation: Activation,
        stage: Stage,
    ) -> None:
        super().__init__()
        if len(in_shape) != 3:
            raise UserError(
                f"{type(self).__name__} reads images (C, H, W), not {tuple(in_shape)}: use encoder=mlp"
            )
        self.in_shape = tuple(in_shape)
        self.out_shape = tuple(out_shape)
        self.stages = nn.Sequential(*[stage(*widths) for widths in pairwise([in_shape[0], *channels])])
        self.head = MLP((channels[-1], *halved(in_shape[1:], len(channels))), out_shape, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stages(x.reshape(-1, *self.in_shape))
        return self.head(maps).reshape(*x.shape[:-3], *self.out_shape)


class ImageDecoder(nn.Module):
    """A multilayer perceptron, then stages that double height and width, (*, *in_shape) -> (*, *out_shape).

    Args:
        in_shape: the shape of one latent.
        out_shape: the shape of one output, (C, H, W) or (P, C, H, W) for P parameters of each pixel.
        channels: the number of channels before each stage, in reverse order, as in an encoder.
        hidden: the widths of the perceptron's hidden layers.
        activation: makes the perceptron's nonlinearity.
        stage: makes a stage from its input and output channels.
        last: makes the output stage.

    Raises:
        UserError: if outputs are not images.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Sequence[int],
        hidden: Sequence[int],
        activation: Activation,
        stage: Stage,
        last: Stage,
    ) -> None:
        super().__init__()
        if len(out_shape) < 3:
            raise UserError(
                f"{type(self).__name__} writes images (C, H, W), not {tuple(out_shape)}: use decoder=mlp"
            )
        self.in_dims = len(in_shape)
        self.out_shape = tuple(out_shape)
        self.small = (channels[-1], *halved(out_shape[-2:], len(channels)))
        self.head = nn.Sequential(MLP(in_shape, self.small, hidden, activation), per_example(activation()))
        doubled = [stage(*widths) for widths in pairwise(reversed(channels))]
        self.stages = nn.Sequential(*doubled, last(channels[0], prod(out_shape[:-2])))

    def forward(self, z: Tensor) -> Tensor:
        height, width = self.out_shape[-2:]
        maps = self.stages(self.head(z).reshape(-1, *self.small))[..., :height, :width]
        return maps.reshape(*z.shape[: z.ndim - self.in_dims], *self.out_shape)


def halved(size: Sequence[int], times: int) -> tuple[int, ...]:
    """Height and width after a number of halvings, each rounded up."""
    return tuple(ceil(length / 2**times) for length in size)


def halving(width_in: int, width_out: int) -> nn.Conv2d:
    """A stride-2 convolution, (N, width_in, H, W) -> (N, width_out, ceil(H / 2), ceil(W / 2))."""
    return nn.Conv2d(width_in, width_out, kernel_size=3, stride=2, padding=1)


def doubling(width_in: int, width_out: int) -> nn.ConvTranspose2d:
    """A stride-2 transposed convolution, (N, width_in, H, W) -> (N, width_out, 2 H, 2 W).

    The stride divides the kernel size, so that every pixel sums equally many terms and no checkerboard appears.
    """
    return nn.ConvTranspose2d(width_in, width_out, kernel_size=4, stride=2, padding=1)


class ConvEncoder(ImageEncoder):
    """Stride-2 convolutions, then a multilayer perceptron, (*, C, H, W) -> (*, *out_shape).

    Args:
        in_shape: the shape (C, H, W) of one image.
        out_shape: the shape of one output.
        channels: the number of channels after each convolution.
        hidden: the widths of the perceptron's hidden layers.
        activation: makes the nonlinearity.
        normalisation: makes the normalisation before it in a convolutional layer from the number of channels, such as
            `latentlab.nn.layers.GroupNorm`, or None.

    Raises:
        UserError: if inputs are not images, or for batch normalisation and dropout.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Channels = (32, 64),
        hidden: Sequence[PositiveInt] = (256,),
        activation: Activation = nn.ReLU,
        normalisation: Normalisation = None,
    ) -> None:
        def stage(width_in: int, width_out: int) -> nn.Module:
            return normalised(halving(width_in, width_out), width_out, normalisation, activation)

        super().__init__(in_shape, out_shape, channels, hidden, activation, stage)


class ConvDecoder(ImageDecoder):
    """A multilayer perceptron, then stride-2 transposed convolutions, (*, *in_shape) -> (*, *out_shape).

    Args:
        in_shape: the shape of one latent.
        out_shape: the shape of one output, (C, H, W) or (P, C, H, W) for P parameters of each pixel.
        channels: the number of channels before each convolution, in reverse order, as in an encoder.
        hidden: the widths of the perceptron's hidden layers.
        activation: makes the nonlinearity.
        normalisation: makes the normalisation before it in a convolutional layer from the number of channels, such as
            `latentlab.nn.layers.GroupNorm`, or None.

    Raises:
        UserError: if outputs are not images, or for batch normalisation and dropout.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Channels = (32, 64),
        hidden: Sequence[PositiveInt] = (256,),
        activation: Activation = nn.ReLU,
        normalisation: Normalisation = None,
    ) -> None:
        def stage(width_in: int, width_out: int) -> nn.Module:
            return normalised(doubling(width_in, width_out), width_out, normalisation, activation)

        super().__init__(in_shape, out_shape, channels, hidden, activation, stage, last=doubling)
