"""The network that denoises flat latents."""

from math import prod

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from latentlab.nn import Shape, full_precision
from latentlab.nn.embed import EmbeddingWidth, NoiseEmbedding
from latentlab.nn.unet import zeroed


class ConditionedLayer(nn.Module):
    r"""A residual layer that is told the noise level, $x + W_2\,\sigma(W_1 ((1 + a)\,\mathrm{LN}(x) + b))$.

    The scale a and shift b are linear in the embedding of the noise level; $W_2$ starts at zero.

    Args:
        width: the width of input and output.
        embedding: the width of the embedding.
    """

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.first = nn.Linear(width, width)
        self.second = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """(N, width) and the embedding (N, E) -> (N, width)."""
        scale, shift = self.modulation(noise).chunk(2, dim=1)
        return x + self.second(F.silu(self.first((1 + scale) * self.norm(x) + shift)))


class MLPDenoiser(nn.Module):
    r"""The noise in a vector, $\hat\epsilon(z_t; \gamma_t) = \sigma_t z_t + f(z_t, \gamma_t)$, by a residual network f.

    f starts at zero, and $\sigma_t z_t = E[\epsilon|z_t]$ for x ~ N(0, I): the diffusion starts as a standard normal
    (the mixed score of Vahdat et al. 2021, section 3.2). The counterpart of `unet.UNet` for latents.

    Args:
        event_shape: the shape of one input, flattened on the way in.
        gamma_min: the noise level $\gamma$ where there is least noise.
        gamma_max: $\gamma$ where there is most.
        width: the width of the layers.
        blocks: the number of residual layers.
        embedding: the width of the embedding of the noise level, an even number.
    """

    def __init__(
        self,
        event_shape: Shape,
        gamma_min: float,
        gamma_max: float,
        width: PositiveInt = 256,
        blocks: PositiveInt = 3,
        embedding: EmbeddingWidth = 64,
    ) -> None:
        super().__init__()
        size = prod(event_shape)
        self.noise = NoiseEmbedding(embedding, gamma_min, gamma_max)
        self.stem = nn.Linear(size, width)
        self.blocks = nn.ModuleList([ConditionedLayer(width, embedding) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.out = zeroed(nn.Linear(width, size))

    def forward(self, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        """z_t (N, *event_shape) and gamma_t (N,) -> the noise (N, *event_shape), float32 at least."""
        noise = self.noise(gamma_t)
        h = self.stem(z_t.flatten(1))
        for block in self.blocks:
            h = block(h, noise)
        start = gamma_t.sigmoid().sqrt().view(-1, *[1] * (z_t.ndim - 1)) * z_t
        return start + full_precision(self.out(F.silu(self.norm(h)))).reshape(z_t.shape)
