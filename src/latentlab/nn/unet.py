"""The U-Net that denoises images."""

from collections.abc import Callable, Sequence
from math import log2, pi

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from latentlab.errors import UserError
from latentlab.nn import Depth, Shape
from latentlab.nn.conv import Channels, halving
from latentlab.nn.denoisers import EmbeddingWidth, NoiseEmbedding, zeroed
from latentlab.nn.layers import GroupNorm

# Makes a residual block from its numbers of input and output channels.
Block = Callable[[int, int], "ConditionedBlock"]


class FourierFeatures(nn.Module):
    r"""The input together with $\sin(2^n \pi z)$ and $\cos(2^n \pi z)$ for a range of octaves n.

    They show the network the last bits of z (Kingma et al. 2021, appendix C). The finest octave is the one that the
    least noise leaves visible, $2^n \pi \sigma_0 \approx 1$ with $\sigma_0^2 = \mathrm{sigmoid}(\gamma_{\min})$. At the
    paper's $\gamma_{\min} = -13.3$, for 256 values of a pixel, two octaves are n = 7 and 8, as in the paper. More noise
    gives coarser ones.

    Args:
        octaves: the number of octaves; 0 leaves the input as it is.
        gamma_min: the smallest noise level $\gamma$.
    """

    scales: Tensor

    def __init__(self, octaves: int, gamma_min: float) -> None:
        super().__init__()
        finest = finest_octave(gamma_min)
        scales = pi * 2.0 ** torch.arange(finest - octaves + 1, finest + 1)
        self.register_buffer("scales", scales, persistent=False)

    def channels(self, channels: int) -> int:
        """Return the number of output channels for a number of input channels."""
        return channels * (1 + 2 * len(self.scales))

    def forward(self, z: Tensor) -> Tensor:
        angles = [scale * z for scale in self.scales]
        return torch.cat([z, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles)], dim=1)


def finest_octave(gamma_min: float) -> int:
    r"""Return the n with $2^n \pi \sigma_0$ closest to 1, for $\sigma_0^2 = \mathrm{sigmoid}(\gamma_{\min})$."""
    sigma = torch.tensor(gamma_min, dtype=torch.float64).sigmoid().sqrt().item()
    return round(-log2(pi * sigma))


class ConditionedBlock(nn.Module):
    r"""A residual block conditioned on the noise level, (N, width_in, H, W) to (N, width_out, H, W).

    $x + W_2\,\sigma((1 + a) \odot \mathrm{GN}(W_1\,\sigma(\mathrm{GN}(x))) + b)$ with the nonlinearity $\sigma$ = SiLU.
    The scale a and the shift b are linear in the embedding of the noise level (Dhariwal and Nichol 2021, eq. 3).
    $W_2$ starts at zero.

    Args:
        width_in: the number of input channels.
        width_out: the number of output channels.
        embedding: the width of the embedding.
        groups: the number of groups of the normalisation.
    """

    def __init__(self, width_in: int, width_out: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.first_norm = GroupNorm(width_in, groups)
        self.first = nn.Conv2d(width_in, width_out, kernel_size=3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width_out)
        self.second_norm = GroupNorm(width_out, groups)
        self.second = zeroed(nn.Conv2d(width_out, width_out, kernel_size=3, padding=1))
        self.shortcut = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        scale, shift = self.modulation(noise)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.first_norm(x)))
        h = self.second(F.silu((1 + scale) * self.second_norm(h) + shift))
        return self.shortcut(x) + h


class SelfAttention(nn.Module):
    """Residual self-attention between the positions of a feature map (Vaswani et al. 2017, eq. 1).

    It starts as the identity.

    Args:
        width: the number of channels.
        heads: the number of heads.
        groups: the number of groups of the normalisation.
    """

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(width, groups)
        self.queries_keys_values = nn.Conv2d(width, 3 * width, kernel_size=1)
        self.out = zeroed(nn.Conv2d(width, width, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        packed = self.queries_keys_values(self.norm(x)).flatten(2)  # (N, 3 C, H W)
        q, k, v = packed.unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)  # (N, heads, H W, c)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(-1, -2).reshape(x.shape))


class Middle(nn.Module):
    """Two residual blocks with attention, or another layer, between them."""

    def __init__(self, width: int, block: Block, attention: nn.Module) -> None:
        super().__init__()
        self.first, self.attention, self.second = block(width, width), attention, block(width, width)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.second(self.attention(self.first(x, noise)), noise)


class Level(nn.Module):
    """One resolution of the U-Net: residual blocks, the coarser levels, and blocks with skip connections.

    Args:
        channels: the channels of this level and of the coarser ones.
        blocks: the number of blocks before, and after, the coarser levels.
        block: makes a residual block.
        middle: the layers below the coarsest level.
    """

    def __init__(self, channels: Sequence[int], blocks: int, block: Block, middle: nn.Module) -> None:
        super().__init__()
        width = channels[0]
        self.before = nn.ModuleList([block(width, width) for _ in range(blocks)])
        self.below = HalfSize(channels, blocks, block, middle) if len(channels) > 1 else middle
        self.after = nn.ModuleList([block(2 * width, width) for _ in range(blocks)])

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        maps = []
        for block in self.before:
            x = block(x, noise)
            maps.append(x)
        x = self.below(x, noise)
        for block, skip in zip(self.after, reversed(maps), strict=True):
            x = block(torch.cat([x, skip], dim=1), noise)
        return x


class HalfSize(nn.Module):
    """The coarser levels, at half the height and width, rounded up. The arguments are those of `Level`."""

    def __init__(self, channels: Sequence[int], blocks: int, block: Block, middle: nn.Module) -> None:
        super().__init__()
        self.narrow = halving(channels[0], channels[1])
        self.level = Level(channels[1:], blocks, block, middle)
        self.widen = nn.Conv2d(channels[1], channels[0], kernel_size=1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return F.interpolate(self.widen(self.level(self.narrow(x), noise)), size=x.shape[-2:])


class UNet(nn.Module):
    r"""A U-Net f(z_t, gamma_t) that denoises images, (N, C, H, W) and (N,) to (N, C, H, W). It starts at zero.

    Each level has residual blocks (Ho et al. 2020, appendix B) at half the height and width of the level before, with
    skip connections. The coarsest level has attention. Input features and the embedding of the noise level are those
    of Kingma et al. 2021 (appendix B and C and code).

    Args:
        event_shape: the shape (C, H, W) of one image.
        gamma_min: the smallest noise level $\gamma$.
        gamma_max: the largest $\gamma$.
        num_classes: the number of classes, or None.
        channels: the channels of each level, largest maps first.
        blocks: the number of residual blocks of a level, in each direction.
        attention: the number of heads at the coarsest level; 0 for no attention.
        embedding: the width of the embedding of the noise level, an even number.
        fourier: the octaves of Fourier features, see `FourierFeatures`.
        groups: the number of groups of each normalisation.

    Raises:
        UserError: if `event_shape` is not that of images, or channels do not divide into groups or heads.
    """

    def __init__(
        self,
        event_shape: Shape,
        gamma_min: float,
        gamma_max: float,
        num_classes: int | None = None,
        channels: Channels = (16, 32, 64),
        blocks: Depth = 1,
        attention: NonNegativeInt = 2,
        embedding: EmbeddingWidth = 64,
        fourier: NonNegativeInt = 2,
        groups: PositiveInt = 8,
    ) -> None:
        super().__init__()
        _check(event_shape, channels, attention, groups)

        def block(width_in: int, width_out: int) -> ConditionedBlock:
            return ConditionedBlock(width_in, width_out, embedding, groups)

        first, last = channels[0], channels[-1]
        self.noise = NoiseEmbedding(embedding, gamma_min, gamma_max, num_classes)
        self.features = FourierFeatures(fourier, gamma_min)
        self.stem = nn.Conv2d(self.features.channels(event_shape[0]), first, kernel_size=3, padding=1)
        middle = Middle(last, block, SelfAttention(last, attention, groups) if attention else nn.Identity())
        self.levels = Level(channels, blocks, block, middle)
        self.norm = GroupNorm(first, groups)
        self.out = zeroed(nn.Conv2d(first, event_shape[0], kernel_size=3, padding=1))

    def forward(self, z_t: Tensor, gamma_t: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.levels(self.stem(self.features(z_t)), self.noise(gamma_t, y))
        return self.out(F.silu(self.norm(h)))


def _check(event_shape: Shape, channels: Sequence[int], attention: int, groups: int) -> None:
    if len(event_shape) != 3:
        raise UserError(
            f"denoiser=unet is for images (C, H, W), not for {tuple(event_shape)}: use denoiser=mlp"
        )
    if any(width % groups for width in channels):
        raise UserError(f"denoiser.groups={groups} does not divide each of denoiser.channels={[*channels]}")
    if attention and channels[-1] % attention:
        raise UserError(
            f"denoiser.attention={attention} does not divide the {channels[-1]} channels of the coarsest level"
        )
