"""Residual networks: the stages of `conv` with residual blocks."""

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn

from latentlab.nn import Shape
from latentlab.nn.conv import Channels, ImageDecoder, ImageEncoder, doubling, halving
from latentlab.nn.layers import Activation, GroupNorm, Normalisation, per_example


class ResidualBlock(nn.Module):
    r"""A residual block with pre-activation, $x + W_2 \sigma(W_1 \sigma(x))$ (He et al. 2016b, fig. 4e).

    Args:
        width: the number of channels.
        activation: makes the nonlinearity $\sigma$.
        normalisation: makes what comes before each; None for nothing.
    """

    def __init__(self, width: int, activation: Activation, normalisation: Normalisation) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            norm = [] if normalisation is None else [per_example(normalisation(width))]
            layers += [*norm, per_example(activation()), nn.Conv2d(width, width, kernel_size=3, padding=1)]
        self.residual = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, width, H, W)."""
        return x + self.residual(x)


class ResNetEncoder(ImageEncoder):
    """Convolutions of stride 2, each with residual blocks after it, and a multilayer perceptron on top.

    Args:
        in_shape: the shape (C, H, W) of one image.
        out_shape: the shape of one output.
        channels: the channels of each stage; their number is the number of halvings.
        blocks: the number of residual blocks in a stage.
        hidden: the widths of the hidden layers on top.
        activation: makes the nonlinearity.
        normalisation: makes what comes before it in a block, of the given number of channels; None for nothing.

    Raises:
        UserError: when `in_shape` is not that of an image; for batch normalisation and dropout.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Channels = (32, 64),
        blocks: PositiveInt = 2,
        hidden: Sequence[PositiveInt] = (256,),
        activation: Activation = nn.SiLU,
        normalisation: Normalisation = GroupNorm,
    ) -> None:
        def stage(width_in: int, width_out: int) -> nn.Module:
            residuals = [ResidualBlock(width_out, activation, normalisation) for _ in range(blocks)]
            return nn.Sequential(halving(width_in, width_out), *residuals)

        super().__init__(in_shape, out_shape, channels, hidden, activation, stage)


class ResNetDecoder(ImageDecoder):
    """A multilayer perceptron, and transposed convolutions of stride 2, each with residual blocks before it.

    Args:
        in_shape: the shape of one latent.
        out_shape: the shape of one output, (C, H, W) or (P, C, H, W) for P parameters of each pixel.
        channels: the channels of each stage, largest maps first, as in an encoder.
        blocks: the number of residual blocks in a stage.
        hidden: the widths of the hidden layers below.
        activation: makes the nonlinearity.
        normalisation: makes what comes before it in a block, of the given number of channels; None for nothing.

    Raises:
        UserError: when `out_shape` is not that of images; for batch normalisation and dropout.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Channels = (32, 64),
        blocks: PositiveInt = 2,
        hidden: Sequence[PositiveInt] = (256,),
        activation: Activation = nn.SiLU,
        normalisation: Normalisation = GroupNorm,
    ) -> None:
        def stage(width_in: int, width_out: int) -> nn.Module:
            residuals = [ResidualBlock(width_in, activation, normalisation) for _ in range(blocks)]
            return nn.Sequential(*residuals, doubling(width_in, width_out))

        super().__init__(in_shape, out_shape, channels, hidden, activation, stage, last=stage)
