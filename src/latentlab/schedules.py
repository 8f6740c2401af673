r"""Noise schedules of a diffusion, $\gamma(t) = -\log \mathrm{SNR}(t)$ for t in [0, 1].

They define q(z_t|x) = N(alpha_t x, sigma_t^2 I) with $\alpha_t^2 = \mathrm{sigmoid}(-\gamma(t))$ and
$\sigma_t^2 = \mathrm{sigmoid}(\gamma(t)) = 1 - \alpha_t^2$ (Kingma et al. 2021, "Variational diffusion models",
https://arxiv.org/abs/2107.00630, section 3.1). The noise grows with t.
"""

from abc import ABC, abstractmethod
from itertools import accumulate
from math import atan, exp, expm1, log, log1p
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus

from latentlab.errors import UserError

# Beyond these, alpha or sigma is 0 in float32.
MOST = 50
Gamma = Annotated[float, Field(ge=-MOST, le=MOST)]
Beta = Annotated[float, Field(gt=0, lt=1)]


def alpha(gamma: Tensor) -> Tensor:
    r"""The factor of the signal, $\alpha = \sqrt{\mathrm{sigmoid}(-\gamma)}$, of any shape."""
    return torch.sigmoid(-gamma).sqrt()


def sigma(gamma: Tensor) -> Tensor:
    r"""The standard deviation of the noise, $\sigma = \sqrt{\mathrm{sigmoid}(\gamma)}$, of any shape."""
    return torch.sigmoid(gamma).sqrt()


class GammaAndSlope(NamedTuple):
    r"""$\gamma(t)$ and its derivative $\gamma'(t)$, both of the same shape."""

    gamma: Tensor
    slope: Tensor


class NoiseSchedule(nn.Module, ABC):
    r"""An increasing $\gamma(t)$ with fixed end points, $\gamma(0) = \gamma_{\min}$ and $\gamma(1) = \gamma_{\max}$.

    Args:
        gamma_min: $\gamma(0)$, in nats. None leaves it to the model, see `with_default`.
        gamma_max: $\gamma(1)$, in nats.

    Raises:
        UserError: if gamma_min is not below gamma_max.
    """

    def __init__(self, gamma_min: Gamma | None = None, gamma_max: Gamma = 5.0) -> None:
        super().__init__()
        self._gamma_min = gamma_min
        self.gamma_max = gamma_max
        self._check()

    @property
    def gamma_min(self) -> float:
        if self._gamma_min is None:
            raise ValueError("gamma_min is not set: give it, or call with_default")
        return self._gamma_min

    def with_default(self, gamma_min: float) -> Self:
        r"""Set $\gamma(0)$ if it was not given, and return this schedule."""
        if self._gamma_min is None:
            self._gamma_min = gamma_min
            self._check()
        return self

    @abstractmethod
    def progress(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fraction of the way from gamma_min to gamma_max at t (B,), and its derivative."""

    def forward(self, t: Tensor) -> GammaAndSlope:
        r"""Return $\gamma(t)$ and $\gamma'(t)$ for times t (B,) in [0, 1]."""
        fraction, slope = self.progress(t)
        start, end = torch.full_like(fraction, self.gamma_min), torch.full_like(fraction, self.gamma_max)
        gamma = torch.lerp(start, end, fraction)  # exact at both ends
        return GammaAndSlope(gamma, (self.gamma_max - self.gamma_min) * slope)

    def extra_repr(self) -> str:
        return f"gamma_min={self._gamma_min}, gamma_max={self.gamma_max}"

    def _check(self) -> None:
        if self._gamma_min is not None and not self._gamma_min < self.gamma_max:
            raise UserError(
                f"noise_schedule.gamma_min={self._gamma_min}, noise_schedule.gamma_max={self.gamma_max}: "
                "noise grows with time, so gamma_min must be the smaller one (such as -13.3 and 5)"
            )


class LinearSchedule(NoiseSchedule):
    r"""The linear schedule, $\gamma(t) = (1 - t)\,\gamma_{\min} + t\,\gamma_{\max}$."""

    def progress(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, torch.ones_like(t)


class CosineSchedule(NoiseSchedule):
    r"""The cosine schedule, $\gamma = 2 \log\tan\theta$ with $\theta(t) = (1 - t)\,\theta_{\min} + t\,\theta_{\max}$.

    Then $\alpha_t = \cos\theta$ (Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 17), and
    $\gamma' = 4 (\theta_{\max} - \theta_{\min}) / \sin 2\theta$. The angles at both ends follow from the end points
    of $\gamma$. They replace the offset s of the paper.
    """

    def progress(self, t: Tensor) -> tuple[Tensor, Tensor]:
        lowest, highest = (atan(exp(gamma / 2)) for gamma in (self.gamma_min, self.gamma_max))
        angle = lowest + (highest - lowest) * t
        span = self.gamma_max - self.gamma_min
        fraction = (2 * angle.tan().log() - self.gamma_min) / span
        slope = 4 * (highest - lowest) / (2 * angle).sin() / span
        # Rounding moves the end points by about 1e-6.
        return torch.where(t >= 1, 1.0, torch.where(t <= 0, 0.0, fraction.clamp(0, 1))), slope


class LinearBetaSchedule(NoiseSchedule):
    r"""The schedule of T steps with linear $\beta_i$ (Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 4).

    At the times i / T, $\alpha^2 = \prod_{j \leq i} (1 - \beta_j)$, so that z at i / T is their $x_i$, i = 1, ..., T.
    Between two of these times $\gamma$ is linear. The first step starts from z_0 with $\gamma_{\min}$, which has less
    noise than $x_1$. It takes the place of their discrete decoder (section 3.3).

    Args:
        gamma_min: $\gamma(0)$. By default, pixels of 256 values are certain given z_0.
        beta_min: $\beta_1$.
        beta_max: $\beta_T$.
        steps: T.

    Raises:
        UserError: if gamma_min has more noise than $x_1$, or if float32 cannot hold the signal of $x_T$.
    """

    fractions: Tensor

    def __init__(
        self,
        gamma_min: Gamma = -13.3,
        beta_min: Beta = 1e-4,
        beta_max: Beta = 0.02,
        steps: Annotated[int, Field(gt=0, le=100_000)] = 1000,
    ) -> None:
        gammas = _gammas(beta_min, beta_max, steps)
        first, last = gammas[0], gammas[-1]
        if not gamma_min < first:
            raise UserError(
                f"noise_schedule.gamma_min={gamma_min}: the first step has the noise {first:.2f}, "
                "and noise grows with time: lower noise_schedule.gamma_min, or raise noise_schedule.beta_min"
            )
        if not last <= MOST:
            raise UserError(
                f"noise_schedule.beta_max={beta_max}: after {steps} steps no signal is left in float32: "
                "lower noise_schedule.beta_max or noise_schedule.steps"
            )
        super().__init__(gamma_min, last)
        fractions = [(gamma - gamma_min) / (last - gamma_min) for gamma in (gamma_min, *gammas)]
        self.register_buffer("fractions", torch.tensor(fractions), persistent=False)

    def progress(self, t: Tensor) -> tuple[Tensor, Tensor]:
        steps = len(self.fractions) - 1
        index = (t * steps).floor().long().clamp(0, steps - 1)
        low, high = self.fractions[index], self.fractions[index + 1]
        return torch.lerp(low, high, (t * steps - index).to(low.dtype)), steps * (high - low)


def _gammas(first: float, last: float, steps: int) -> list[float]:
    r"""Return $\gamma = \log\frac{1 - \alpha^2}{\alpha^2}$ after each step, for betas from the first to the last."""
    betas = [first + (last - first) * i / max(steps - 1, 1) for i in range(steps)]
    return [log(-expm1(log_signal)) - log_signal for log_signal in accumulate(log1p(-beta) for beta in betas)]


class LearnedSchedule(NoiseSchedule):
    r"""A monotone network $f(t) = a t + \frac1H \sum_h c_h\, \mathrm{sigmoid}(b_h (t - m_h))$ with positive a, b, c.

    The fraction of the way is $(f(t) - f(0)) / (f(1) - f(0))$ (Kingma et al. 2021, appendix H, with their first two
    layers merged). It starts close to the linear schedule, with sigmoids spread evenly over [0, 1].

    Args:
        gamma_min: $\gamma(0)$. None leaves it to the model.
        gamma_max: $\gamma(1)$.
        sigmoids: the number H of sigmoids.
    """

    def __init__(
        self,
        gamma_min: Gamma | None = None,
        gamma_max: Gamma = 5.0,
        sigmoids: PositiveInt = 1024,
    ) -> None:
        super().__init__(gamma_min, gamma_max)
        self.linear = nn.Parameter(torch.full((1,), _softplus_inverse(1.0)))
        self.steepness = nn.Parameter(torch.full((sigmoids,), _softplus_inverse(10.0)))
        self.height = nn.Parameter(torch.full((sigmoids,), _softplus_inverse(1.0)))
        self.middle = nn.Parameter((torch.arange(sigmoids) + 0.5) / sigmoids)

    def progress(self, t: Tensor) -> tuple[Tensor, Tensor]:
        f, slope = self._network(torch.cat([t, t.new_tensor([0.0, 1.0])]))
        first, last = f[-2], f[-1]
        return (f[:-2] - first) / (last - first), slope[:-2] / (last - first)

    def _network(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = softplus(self.linear), softplus(self.steepness), softplus(self.height)
        step = torch.sigmoid(b * (t[:, None] - self.middle))  # (B, H)
        return a * t + (c * step).mean(1), a + (c * b * step * (1 - step)).mean(1)


def _softplus_inverse(value: float) -> float:
    return log(exp(value) - 1)
