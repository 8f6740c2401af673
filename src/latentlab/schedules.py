r"""Noise schedules of a diffusion, $\gamma(t) = -\log \mathrm{SNR}(t)$ for t in [0, 1].

They fix q(z_t|x) = N(alpha_t x, sigma_t^2 I) with $\alpha_t^2 = \mathrm{sigmoid}(-\gamma(t))$ and
$\sigma_t^2 = \mathrm{sigmoid}(\gamma(t)) = 1 - \alpha_t^2$ (Kingma et al. 2021, "Variational diffusion models",
https://arxiv.org/abs/2107.00630, section 3.1). The noise grows with t.
"""

from abc import ABC, abstractmethod
from math import atan, exp, log
from typing import NamedTuple

import torch
from pydantic import FiniteFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus

from latentlab.errors import UserError


def alpha(gamma: Tensor) -> Tensor:
    r"""The signal's factor, $\alpha = \sqrt{\mathrm{sigmoid}(-\gamma)}$, of any shape."""
    return torch.sigmoid(-gamma).sqrt()


def sigma(gamma: Tensor) -> Tensor:
    r"""The noise's standard deviation, $\sigma = \sqrt{\mathrm{sigmoid}(\gamma)}$, of any shape."""
    return torch.sigmoid(gamma).sqrt()


class Noise(NamedTuple):
    r"""$\gamma(t)$ and its derivative $\gamma'(t)$, of one shape."""

    gamma: Tensor
    slope: Tensor


class Schedule(nn.Module, ABC):
    r"""An increasing $\gamma(t)$ with fixed end points, $\gamma(0) = \gamma_{\min}$ and $\gamma(1) = \gamma_{\max}$.

    Args:
        gamma_min: $\gamma(0)$, in nats: how little noise z_0 has.
        gamma_max: $\gamma(1)$: how little signal z_1 has.

    Raises:
        UserError: when the end points are not in their order.
    """

    def __init__(self, gamma_min: FiniteFloat = -13.3, gamma_max: FiniteFloat = 5.0) -> None:
        super().__init__()
        if not gamma_min < gamma_max:
            raise UserError(
                f"schedule.gamma_min={gamma_min}, schedule.gamma_max={gamma_max}: noise grows with time, "
                "so that gamma_min must be the smaller one (such as -13.3 and 5)"
            )
        self.gamma_min = gamma_min
        self.gamma_max = gamma_max

    @abstractmethod
    def rise(self, t: Tensor) -> Noise:
        """The part of the way from gamma_min to gamma_max that lies behind at t (B,), from 0 to 1, with its slope."""

    def forward(self, t: Tensor) -> Noise:
        r"""$\gamma(t)$ and $\gamma'(t)$ for times t (B,) in [0, 1]."""
        part, slope = self.rise(t)
        start, end = torch.full_like(part, self.gamma_min), torch.full_like(part, self.gamma_max)
        return Noise(
            torch.lerp(start, end, part), (self.gamma_max - self.gamma_min) * slope
        )  # exact at both ends


class LinearSchedule(Schedule):
    r"""$\gamma(t) = (1 - t)\,\gamma_{\min} + t\,\gamma_{\max}$."""

    def rise(self, t: Tensor) -> Noise:
        """t itself."""
        return Noise(t, torch.ones_like(t))


class CosineSchedule(Schedule):
    r"""$\gamma = 2 \log\tan\theta$, $\theta(t) = (1 - t)\,\theta_{\min} + t\,\theta_{\max}$.

    Then $\alpha_t = \cos\theta$ (Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 17), and
    $\gamma' = 4 (\theta_{\max} - \theta_{\min}) / \sin 2\theta$. Instead of their offset s, the angle is cut off
    where $\gamma$ has its end points.
    """

    def rise(self, t: Tensor) -> Noise:
        """The end points' angles, and between them the logarithm of the tangent."""
        lowest, highest = (atan(exp(gamma / 2)) for gamma in (self.gamma_min, self.gamma_max))
        angle = lowest + (highest - lowest) * t
        span = self.gamma_max - self.gamma_min
        part = (2 * angle.tan().log() - self.gamma_min) / span
        slope = 4 * (highest - lowest) / (2 * angle).sin() / span
        # Rounding moves the end points themselves by some 1e-6.
        return Noise(torch.where(t >= 1, 1.0, torch.where(t <= 0, 0.0, part.clamp(0, 1))), slope)


class LearnedSchedule(Schedule):
    r"""A monotone network $f(t) = a t + \frac1H \sum_h c_h\, \mathrm{sigmoid}(b_h (t - m_h))$ with positive a, b, c.

    The part of the way is $(f(t) - f(0)) / (f(1) - f(0))$ (Kingma et al. 2021, appendix H, whose first layer is
    taken into the second). It starts close to the linear schedule, with sigmoids spread evenly over [0, 1].

    Args:
        gamma_min: $\gamma(0)$.
        gamma_max: $\gamma(1)$.
        sigmoids: the number H of sigmoids.
    """

    def __init__(
        self, gamma_min: FiniteFloat = -13.3, gamma_max: FiniteFloat = 5.0, sigmoids: PositiveInt = 1024
    ) -> None:
        super().__init__(gamma_min, gamma_max)
        self.linear = nn.Parameter(torch.full((1,), _softplus_inverse(1.0)))
        self.steepness = nn.Parameter(torch.full((sigmoids,), _softplus_inverse(10.0)))
        self.height = nn.Parameter(torch.full((sigmoids,), _softplus_inverse(1.0)))
        self.middle = nn.Parameter((torch.arange(sigmoids) + 0.5) / sigmoids)

    def rise(self, t: Tensor) -> Noise:
        """The network and its derivative, between their values at 0 and 1."""
        f, slope = self._network(torch.cat([t, t.new_tensor([0.0, 1.0])]))
        first, last = f[-2], f[-1]
        return Noise((f[:-2] - first) / (last - first), slope[:-2] / (last - first))

    def _network(self, t: Tensor) -> Noise:
        a, b, c = softplus(self.linear), softplus(self.steepness), softplus(self.height)
        step = torch.sigmoid(b * (t[:, None] - self.middle))  # (B, H)
        return Noise(a * t + (c * step).mean(1), a + (c * b * step * (1 - step)).mean(1))


def _softplus_inverse(value: float) -> float:
    return log(exp(value) - 1)
