"""A diffusion of normal data with the best denoiser there is, whose bound has a closed form."""

import numpy as np
import torch
from oracles import gauss_hermite
from torch import Tensor, nn

from latentlab.models.diffusion import Diffusion
from latentlab.schedules import NoiseSchedule


class BestDenoiser(nn.Module):
    r"""$E[\epsilon|z_t] = \sigma_t z_t / (\alpha_t^2 s^2 + \sigma_t^2)$ for independent x ~ N(0, s^2)."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance = variance

    def forward(self, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        noise = gamma_t.sigmoid()
        factor = noise.sqrt() / ((1 - noise) * self.variance + noise)
        return factor.view(-1, *[1] * (z_t.ndim - 1)) * z_t


class Wavy(nn.Module):
    """A denoiser that is no good, smooth and not linear; the last dimension is what it mixes."""

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(event_shape[-1], event_shape[-1]))

    def forward(self, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        return z_t + torch.sin(z_t @ self.weight + gamma_t.view(-1, *[1] * (z_t.ndim - 1)))


def gaussian(
    schedule: NoiseSchedule, variance: float = 1.0, event_shape: tuple[int, ...] = (1,)
) -> Diffusion:
    """The diffusion of x ~ N(0, variance), in float64."""
    return Diffusion(event_shape, schedule, lambda shape, **ends: BestDenoiser(variance)).double()


def wavy(schedule: NoiseSchedule, event_shape: tuple[int, ...] = (3,)) -> Diffusion:
    """A diffusion with a denoiser that learns, in float64."""
    return Diffusion(event_shape, schedule, lambda shape, **ends: Wavy(shape)).double()


def expected_loss(diffusion: Diffusion, x: float, t: Tensor, steps: int | None = None) -> Tensor:
    """The loss at each time t (N,), its noise integrated out, for a diffusion of shape (1,), (N,)."""
    nodes, weights = gauss_hermite(20)
    times, eps = t.repeat_interleave(len(nodes)), nodes.repeat(len(t))[:, None]
    values = diffusion.loss_at(torch.full_like(eps, x), times, steps, eps)
    return values.view(len(t), -1) @ weights


def total_loss(diffusion: Diffusion, x: float, steps: int | None = None, nodes: int = 200) -> float:
    """L_T exactly: summed over all T steps, or by quadrature over t for None."""
    if steps is not None:
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        return expected_loss(diffusion, x, t, steps).mean().item()
    places, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(nodes))
    return (expected_loss(diffusion, x, (places + 1) / 2) @ weights / 2).item()
