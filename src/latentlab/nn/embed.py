"""What a denoiser is told beside its input: the noise level, and the fine detail of the input."""

from math import log, log2, pi
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

# The normalised noise level runs from 0 to this, as time steps do in the sinusoidal embedding.
LEVELS = 1000.0
# Half of it are sines, half cosines.
EmbeddingWidth = Annotated[int, Field(ge=2, multiple_of=2)]


class NoiseEmbedding(nn.Module):
    r"""An embedding of the noise level $\gamma$ (minus the log of the signal-to-noise ratio).

    $u = 1000 \frac{\gamma - \gamma_{\min}}{\gamma_{\max} - \gamma_{\min}}$, its sines and cosines at frequencies from
    1 to $10^{-4}$ (Vaswani et al. 2017, section 3.5), and a network of two layers, as in the code of Kingma et al.
    2021.

    Args:
        width: the number of sines and cosines, even, and of outputs.
        gamma_min: $\gamma$ where there is least noise.
        gamma_max: $\gamma$ where there is most.
    """

    frequencies: Tensor

    def __init__(self, width: EmbeddingWidth, gamma_min: float, gamma_max: float) -> None:
        super().__init__()
        self.gamma_min = gamma_min
        self.gamma_range = gamma_max - gamma_min
        frequencies = torch.exp(-log(1e4) * torch.linspace(0, 1, width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, gamma: Tensor) -> Tensor:
        """(N,) -> (N, width)."""
        level = LEVELS * (gamma - self.gamma_min) / self.gamma_range
        angles = level[:, None] * self.frequencies  # (N, width / 2)
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class FourierFeatures(nn.Module):
    r"""The input with $\sin(2^n \pi z)$ and $\cos(2^n \pi z)$ beside it, for a range of octaves n.

    They show a network the last bits of z (Kingma et al. 2021, appendix C). The finest octave is the one that noise
    of the least level, $\sigma_0^2 = \mathrm{sigmoid}(\gamma_{\min})$, does not wash out, $2^n \pi \sigma_0 \approx 1$:
    n = 7 and 8, the paper's, for two octaves at its $\gamma_{\min} = -13.3$, where 256 levels are told apart, and
    coarse ones where few are.

    Args:
        octaves: the number of octaves; 0 leaves the input as it is.
        gamma_min: $\gamma$ where there is least noise.
    """

    scales: Tensor

    def __init__(self, octaves: int, gamma_min: float) -> None:
        super().__init__()
        finest = finest_octave(gamma_min)
        scales = pi * 2.0 ** torch.arange(finest - octaves + 1, finest + 1)
        self.register_buffer("scales", scales, persistent=False)

    def channels(self, channels: int) -> int:
        """The number of channels for so many of the input."""
        return channels * (1 + 2 * len(self.scales))

    def forward(self, z: Tensor) -> Tensor:
        """(N, C, *) -> (N, C (1 + 2 octaves), *)."""
        angles = [scale * z for scale in self.scales]
        return torch.cat([z, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles)], dim=1)


def finest_octave(gamma_min: float) -> int:
    r"""The n for which $2^n \pi \sigma_0$ is closest to 1, of $\sigma_0^2 = \mathrm{sigmoid}(\gamma_{\min})$."""
    sigma = torch.tensor(gamma_min, dtype=torch.float64).sigmoid().sqrt().item()
    return round(-log2(pi * sigma))
