"""A diffusion of normal data with the optimal denoiser: its bound has a closed form."""

import numpy as np
import torch
from oracles import gauss_hermite
from torch import Tensor, nn

from latentlab.models.diffusion import Diffusion, ResidualNoise
from latentlab.schedules import NoiseSchedule


class BestDenoiser(nn.Module):
    r"""The optimal $f = E[\epsilon|z_t] - z_t$ for independent x ~ N(0, s^2).

    $E[\epsilon|z_t] = \sigma_t z_t / (\alpha_t^2 s^2 + \sigma_t^2)$.
    """

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance = variance

    def forward(self, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        noise = gamma_t.sigmoid()
        factor = noise.sqrt() / ((1 - noise) * self.variance + noise)
        return (factor.view(-1, *[1] * (z_t.ndim - 1)) - 1) * z_t


class Wavy(nn.Module):
    """An arbitrary smooth nonlinear denoiser that mixes the last dimension."""

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(event_shape[-1], event_shape[-1]))

    def forward(self, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        return torch.sin(z_t @ self.weight + gamma_t.view(-1, *[1] * (z_t.ndim - 1)))


class Constant(nn.Module):
    """A denoiser that returns one number everywhere."""

    def __init__(self, f: float) -> None:
        super().__init__()
        self.f = nn.Parameter(torch.tensor(f, dtype=torch.float64))

    def forward(self, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        return self.f.expand_as(z_t)


def gaussian(
    schedule: NoiseSchedule, variance: float = 1.0, event_shape: tuple[int, ...] = (1,)
) -> Diffusion:
    """The diffusion of x ~ N(0, variance), in float64."""
    return Diffusion(
        event_shape, schedule, lambda shape, **ends: BestDenoiser(variance), ResidualNoise()
    ).double()


def wavy(schedule: NoiseSchedule, event_shape: tuple[int, ...] = (3,)) -> Diffusion:
    """A diffusion with a denoiser that learns, in float64."""
    return Diffusion(event_shape, schedule, lambda shape, **ends: Wavy(shape), ResidualNoise()).double()


def expected_loss(diffusion: Diffusion, x: float, t: Tensor, steps: int | None = None) -> Tensor:
    """Return the loss at each time t (N,) with its noise integrated out, for a diffusion of shape (1,)."""
    nodes, weights = gauss_hermite(20)
    times, eps = t.repeat_interleave(len(nodes)), nodes.repeat(len(t))[:, None]
    values = diffusion.loss_at(torch.full_like(eps, x), times, steps, eps)
    return values.view(len(t), -1) @ weights


def total_loss(diffusion: Diffusion, x: float, steps: int | None = None, nodes: int = 200) -> float:
    """Return L_T exactly: summed over T steps, or by quadrature over t for None."""
    if steps is not None:
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        return expected_loss(diffusion, x, t, steps).mean().item()
    places, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(nodes))
    return (expected_loss(diffusion, x, (places + 1) / 2) @ weights / 2).item()
