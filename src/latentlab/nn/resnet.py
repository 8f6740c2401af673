"""Residual networks: convolutional networks with residual blocks in each stage."""

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn

from latentlab.nn import Depth, Shape
from latentlab.nn.conv import Channels, ImageDecoder, ImageEncoder, doubling, halving
from latentlab.nn.layers import Activation, GroupNorm, Normalisation, per_example


class ResidualBlock(nn.Module):
    r"""A pre-activation residual block, $x + W_2 \sigma(W_1 \sigma(x))$ (He et al. 2016b, fig. 4e).

    Args:
        width: the number of channels.
        activation: makes the nonlinearity $\sigma$.
        normalisation: makes the normalisation before each $\sigma$ from the number of channels, or None.
    """

    def __init__(self, width: int, activation: Activation, normalisation: Normalisation) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            norm = [] if normalisation is None else [per_example(normalisation(width))]
            layers += [*norm, per_example(activation()), nn.Conv2d(width, width, kernel_size=3, padding=1)]
        self.residual = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class ResNetEncoder(ImageEncoder):
    """Stages of a stride-2 convolution and residual blocks, then a multilayer perceptron.

    Args:
        in_shape: the shape (C, H, W) of one image.
        out_shape: the shape of one output.
        channels: the number of channels of each stage.
        blocks: the number of residual blocks in each stage.
        hidden: the widths of the perceptron's hidden layers.
        activation: makes the nonlinearity.
        normalisation: makes the normalisation before it in a block from the number of channels, or None.

    Raises:
        UserError: if inputs are not images, or for batch normalisation and dropout.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Channels = (32, 64),
        blocks: Depth = 2,
        hidden: Sequence[PositiveInt] = (256,),
        activation: Activation = nn.SiLU,
        normalisation: Normalisation = GroupNorm,
    ) -> None:
        def stage(width_in: int, width_out: int) -> nn.Module:
            residuals = [ResidualBlock(width_out, activation, normalisation) for _ in range(blocks)]
            return nn.Sequential(halving(width_in, width_out), *residuals)

        super().__init__(in_shape, out_shape, channels, hidden, activation, stage)


class ResNetDecoder(ImageDecoder):
    """A multilayer perceptron, then stages of residual blocks and a stride-2 transposed convolution.

    Args:
        in_shape: the shape of one latent.
        out_shape: the shape of one output, (C, H, W) or (P, C, H, W) for P parameters of each pixel.
        channels: the number of channels of each stage, in reverse order, as in an encoder.
        blocks: the number of residual blocks in each stage.
        hidden: the widths of the perceptron's hidden layers.
        activation: makes the nonlinearity.
        normalisation: makes the normalisation before it in a block from the number of channels, or None.

    Raises:
        UserError: if outputs are not images, or for batch normalisation and dropout.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Channels = (32, 64),
        blocks: Depth = 2,
        hidden: Sequence[PositiveInt] = (256,),
        activation: Activation = nn.SiLU,
        normalisation: Normalisation = GroupNorm,
    ) -> None:
        def stage(width_in: int, width_out: int) -> nn.Module:
            residuals = [ResidualBlock(width_in, activation, normalisation) for _ in range(blocks)]
            return nn.Sequential(*residuals, doubling(width_in, width_out))

        super().__init__(in_shape, out_shape, channels, hidden, activation, stage, last=stage)
