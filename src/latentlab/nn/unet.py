"""The U-Net that denoises images."""

from collections.abc import Callable, Sequence

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from latentlab.errors import UserError
from latentlab.nn import Shape, full_precision
from latentlab.nn.conv import Channels, halving
from latentlab.nn.embed import EmbeddingWidth, FourierFeatures, NoiseEmbedding
from latentlab.nn.layers import GroupNorm

# Makes a residual block of two numbers of channels.
Block = Callable[[int, int], "ConditionedBlock"]


class ConditionedBlock(nn.Module):
    r"""A residual block that is told the noise level.

    $x + W_2\,\sigma((1 + a) \odot \mathrm{GN}(W_1\,\sigma(\mathrm{GN}(x))) + b)$ with the nonlinearity $\sigma$ = SiLU;
    the scale a and shift b are linear in the embedding of the noise level (Dhariwal and Nichol 2021, eq. 3); $W_2$
    starts at zero, the block as its shortcut.

    Args:
        width_in: the number of channels of the input.
        width_out: the number of channels of the output.
        embedding: the width of the embedding.
        groups: the groups of a normalisation.
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
        """(N, width_in, H, W) and the embedding (N, E) -> (N, width_out, H, W)."""
        scale, shift = self.modulation(noise)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.first_norm(x)))
        h = self.second(F.silu((1 + scale) * self.second_norm(h) + shift))
        return self.shortcut(x) + h


class SelfAttention(nn.Module):
    """Attention among the places of a map, added to it (Vaswani et al. 2017, eq. 1); it starts as the identity.

    Args:
        width: the number of channels.
        heads: the number of heads that they are divided among.
        groups: the groups of the normalisation.
    """

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(width, groups)
        self.queries_keys_values = nn.Conv2d(width, 3 * width, kernel_size=1)
        self.out = zeroed(nn.Conv2d(width, width, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, width, H, W)."""
        packed = self.queries_keys_values(self.norm(x)).flatten(2)  # (N, 3 C, H W)
        q, k, v = packed.unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)  # (N, heads, H W, c)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(-1, -2).reshape(x.shape))


class Middle(nn.Module):
    """Two residual blocks, and attention between them.

    Args:
        width: the number of channels.
        block: makes a residual block.
        attention: what is between them.
    """

    def __init__(self, width: int, block: Block, attention: nn.Module) -> None:
        super().__init__()
        self.first, self.attention, self.second = block(width, width), attention, block(width, width)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """(N, width, H, W) and the embedding (N, E) -> (N, width, H, W)."""
        return self.second(self.attention(self.first(x, noise)), noise)


class Level(nn.Module):
    """Residual blocks, what is below, and as many blocks that see the maps of the first again, last first.

    Args:
        channels: the channels of this level and of those below it.
        blocks: the number of blocks before, and after, what is below.
        block: makes a residual block.
        middle: what is below the last level.
    """

    def __init__(self, channels: Sequence[int], blocks: int, block: Block, middle: nn.Module) -> None:
        super().__init__()
        width = channels[0]
        self.before = nn.ModuleList([block(width, width) for _ in range(blocks)])
        self.below = HalfSize(channels, blocks, block, middle) if len(channels) > 1 else middle
        self.after = nn.ModuleList([block(2 * width, width) for _ in range(blocks)])

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """(N, width, H, W) and the embedding (N, E) -> (N, width, H, W)."""
        maps = []
        for block in self.before:
            x = block(x, noise)
            maps.append(x)
        x = self.below(x, noise)
        for block, seen in zip(self.after, reversed(maps), strict=True):
            x = block(torch.cat([x, seen], dim=1), noise)
        return x


class HalfSize(nn.Module):
    """The levels below the first, on maps of half the height and width, rounded up; the arguments are `Level`'s."""

    def __init__(self, channels: Sequence[int], blocks: int, block: Block, middle: nn.Module) -> None:
        super().__init__()
        self.narrow = halving(channels[0], channels[1])
        self.level = Level(channels[1:], blocks, block, middle)
        self.widen = nn.Conv2d(channels[1], channels[0], kernel_size=1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """(N, width, H, W) and the embedding (N, E) -> (N, width, H, W)."""
        return F.interpolate(self.widen(self.level(self.narrow(x), noise)), size=x.shape[-2:])


class UNet(nn.Module):
    r"""The noise in an image, $\hat\epsilon(z_t; \gamma_t) = z_t + f(z_t, \gamma_t)$, by a U-Net f that starts at zero.

    Levels of residual blocks (Ho et al. 2020, appendix B), each at half the height and width of the one before, with
    attention at the coarsest; on the way up a block sees the map of its counterpart on the way down. Input features,
    embedding of the noise level and the addition of $z_t$ are those of Kingma et al. 2021 (appendix B and C and code).

    Args:
        event_shape: the shape (C, H, W) of one image.
        gamma_min: the noise level $\gamma$ where there is least noise.
        gamma_max: $\gamma$ where there is most.
        channels: the channels of each level, largest maps first.
        blocks: the residual blocks of a level, on either way.
        attention: the heads of the attention at the coarsest level; 0 for none.
        embedding: the width of the embedding of the noise level, an even number.
        fourier: the octaves of Fourier features, see `FourierFeatures`.
        groups: the groups of a normalisation.

    Raises:
        UserError: when `event_shape` is not that of images, or channels do not divide into groups or heads.
    """

    def __init__(
        self,
        event_shape: Shape,
        gamma_min: float,
        gamma_max: float,
        channels: Channels = (16, 32, 64),
        blocks: PositiveInt = 1,
        attention: NonNegativeInt = 2,
        embedding: EmbeddingWidth = 64,
        fourier: NonNegativeInt = 2,
        groups: PositiveInt = 8,
    ) -> None:
        super().__init__()
        if len(event_shape) != 3:
            raise UserError(f"UNet denoises images (C, H, W), not {tuple(event_shape)}: use denoiser=mlp")
        if any(width % groups for width in channels):
            raise UserError(
                f"denoiser.groups={groups} does not divide each of denoiser.channels={[*channels]}"
            )

        if attention and channels[-1] % attention:
            raise UserError(
                f"denoiser.attention={attention} does not divide the {channels[-1]} channels of the coarsest level"
            )

        def block(width_in: int, width_out: int) -> ConditionedBlock:
            return ConditionedBlock(width_in, width_out, embedding, groups)

        first, last = channels[0], channels[-1]
        self.noise = NoiseEmbedding(embedding, gamma_min, gamma_max)
        self.features = FourierFeatures(fourier, gamma_min)
        self.stem = nn.Conv2d(self.features.channels(event_shape[0]), first, kernel_size=3, padding=1)
        middle = Middle(last, block, SelfAttention(last, attention, groups) if attention else nn.Identity())
        self.levels = Level(channels, blocks, block, middle)
        self.norm = GroupNorm(first, groups)
        self.out = zeroed(nn.Conv2d(first, event_shape[0], kernel_size=3, padding=1))

    def forward(self, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        """z_t (N, C, H, W) and gamma_t (N,) -> the noise (N, C, H, W), float32 at least."""
        h = self.levels(self.stem(self.features(z_t)), self.noise(gamma_t))
        return z_t + full_precision(self.out(F.silu(self.norm(h))))


def zeroed(layer: nn.Module) -> nn.Module:
    """A layer whose weights and bias start at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
