r"""The denoiser of flat latents, and the embedding of the noise level that all denoisers use.

A denoiser is a network f(z_t, gamma_t) that starts at zero. `models.diffusion.Parametrisation` turns f into eps_hat.
It is made by `denoiser(event_shape, gamma_min=..., gamma_max=...)` and scales $\gamma_t$ to that range itself. With
`num_classes=C` as well it is f(z_t, gamma_t, y), with labels y (N,) from 0 to C, where C stands for no class.
"""

from math import log, prod
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from latentlab.nn import Depth, Shape

# The normalised noise level runs from 0 to this number, like the time steps of a sinusoidal embedding.
LEVELS = 1000.0
# Half of the embedding are sines, half are cosines.
EmbeddingWidth = Annotated[int, Field(ge=2, multiple_of=2)]


class NoiseEmbedding(nn.Module):
    r"""An embedding of the noise level $\gamma$, the negative log signal-to-noise ratio.

    $u = 1000 \frac{\gamma - \gamma_{\min}}{\gamma_{\max} - \gamma_{\min}}$ is mapped to sines and cosines at
    frequencies from 1 to $10^{-4}$ (Vaswani et al. 2017, section 3.5), and then through two layers (code of Kingma et
    al. 2021). With classes, a learned vector of the class is added.

    Args:
        width: the number of sines and cosines, even, and of outputs.
        gamma_min: the smallest $\gamma$.
        gamma_max: the largest $\gamma$.
        num_classes: the number C of classes, which have one more vector for no class; None without classes.
    """

    frequencies: Tensor

    def __init__(
        self, width: EmbeddingWidth, gamma_min: float, gamma_max: float, num_classes: int | None = None
    ) -> None:
        super().__init__()
        self.gamma_min = gamma_min
        self.gamma_range = gamma_max - gamma_min
        frequencies = torch.exp(-log(1e4) * torch.linspace(0, 1, width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, width)

    def forward(self, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        level = LEVELS * (gamma - self.gamma_min) / self.gamma_range  # (N,)
        angles = level[:, None] * self.frequencies  # (N, width / 2)
        noise: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
        return noise if self.classes is None else noise + self.classes(y)


class ConditionedLayer(nn.Module):
    r"""A residual layer conditioned on the noise level, $x + W_2\,\sigma(W_1 ((1 + a)\,\mathrm{LN}(x) + b))$.

    $\sigma$ is SiLU. The scale a and the shift b are linear in the embedding of the noise level. $W_2$ starts at zero.

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
        scale, shift = self.modulation(noise).chunk(2, dim=1)
        return x + self.second(F.silu(self.first((1 + scale) * self.norm(x) + shift)))


class MLPDenoiser(nn.Module):
    r"""A fully connected residual denoiser f(z_t, gamma_t), (N, *event_shape) and (N,) to (N, *event_shape).

    Args:
        event_shape: the shape of one input, which is flattened.
        gamma_min: the smallest noise level $\gamma$.
        gamma_max: the largest $\gamma$.
        num_classes: the number of classes, or None.
        width: the width of the layers.
        blocks: the number of residual layers.
        embedding: the width of the embedding of the noise level, an even number.
    """

    def __init__(
        self,
        event_shape: Shape,
        gamma_min: float,
        gamma_max: float,
        num_classes: int | None = None,
        width: PositiveInt = 256,
        blocks: Depth = 3,
        embedding: EmbeddingWidth = 64,
    ) -> None:
        super().__init__()
        size = prod(event_shape)
        self.noise = NoiseEmbedding(embedding, gamma_min, gamma_max, num_classes)
        self.stem = nn.Linear(size, width)
        self.blocks = nn.ModuleList([ConditionedLayer(width, embedding) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.out = zeroed(nn.Linear(width, size))

    def forward(self, z_t: Tensor, gamma_t: Tensor, y: Tensor | None = None) -> Tensor:
        noise = self.noise(gamma_t, y)
        h = self.stem(z_t.flatten(1))
        for block in self.blocks:
            h = block(h, noise)
        return self.out(F.silu(self.norm(h))).reshape(z_t.shape)


class ShiftedMLPDenoiser(MLPDenoiser):
    r"""The MLP denoiser of image diffusions in older versions, $f + (\sigma_t - 1) z_t$, for their checkpoints."""

    def forward(self, z_t: Tensor, gamma_t: Tensor, y: Tensor | None = None) -> Tensor:
        sigma_t = gamma_t.sigmoid().sqrt().view(-1, *[1] * (z_t.ndim - 1))
        return super().forward(z_t, gamma_t, y) + (sigma_t - 1) * z_t


def zeroed(layer: nn.Module) -> nn.Module:
    """Return the layer with its weights and bias set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
