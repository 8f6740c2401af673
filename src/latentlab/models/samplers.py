r"""Samplers of a diffusion: draws of z_s given z_t and the predicted noise, s < t.

All of them keep the marginals $q(z_t|x) = N(\alpha_t x, \sigma_t^2 I)$ if the prediction is right, so they take any
number of steps. With $c = -\mathrm{expm1}(\gamma_s - \gamma_t)$, $c\,\sigma_s^2$ is the variance of $q(z_s|z_t, x)$.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Normal

from latentlab.schedules import alpha, sigma


class Sampler(ABC):
    """A map from z_t to a draw of z_s."""

    @abstractmethod
    def __call__(self, z_t: Tensor, eps_hat: Tensor, gamma_t: Tensor, gamma_s: Tensor) -> Tensor:
        """Return z_s (N, *event_shape).

        Args:
            z_t: the noisy data, (N, *event_shape).
            eps_hat: the predicted noise, (N, *event_shape).
            gamma_t: the noise level of z_t, (N, 1, ..., 1).
            gamma_s: the noise level of z_s, (N, 1, ..., 1).
        """


def reverse(z_t: Tensor, eps_hat: Tensor, gamma_t: Tensor, gamma_s: Tensor) -> Normal:
    r"""Return $p(z_s|z_t) = q(z_s|z_t, x = \hat x)$, for the arguments of `Sampler`.

    Its mean is $\frac{\alpha_s}{\alpha_t} (z_t - c\,\sigma_t \hat\epsilon)$, its variance $c\,\sigma_s^2$ (Kingma et
    al. 2021, section 3.3).
    """
    c = -torch.expm1(gamma_s - gamma_t)
    mean = alpha(gamma_s) / alpha(gamma_t) * (z_t - c * sigma(gamma_t) * eps_hat)
    return Normal(mean, (c.sqrt() * sigma(gamma_s)).expand_as(mean))


@dataclass(frozen=True)
class Ancestral(Sampler):
    """Ancestral sampling, z_s ~ p(z_s|z_t) (Ho et al. 2020, algorithm 2, with their smaller variance)."""

    def __call__(self, z_t: Tensor, eps_hat: Tensor, gamma_t: Tensor, gamma_s: Tensor) -> Tensor:
        return reverse(z_t, eps_hat, gamma_t, gamma_s).sample()


@dataclass(frozen=True)
class DDIM(Sampler):
    r"""Denoising diffusion implicit models (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12 and 16).

    $z_s = \alpha_s \hat x + \sqrt{\sigma_s^2 (1 - \eta^2 c)}\,\hat\epsilon + \eta \sqrt{c}\,\sigma_s \epsilon$. With
    $\eta = 0$ the path is a function of z_1, and with $\eta = 1$ the sampler is `Ancestral`.

    Attributes:
        eta: the fraction of the noise of ancestral sampling.
    """

    eta: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __call__(self, z_t: Tensor, eps_hat: Tensor, gamma_t: Tensor, gamma_s: Tensor) -> Tensor:
        drawn = -(self.eta**2) * torch.expm1(gamma_s - gamma_t)  # eta^2 c
        # alpha_s sigma_t / alpha_t - sqrt(sigma_s^2 (1 - eta^2 c)), without the difference of two close numbers
        taken = sigma(gamma_s) * (torch.expm1((gamma_t - gamma_s) / 2) + drawn / (1 + (1 - drawn).sqrt()))
        mean = alpha(gamma_s) / alpha(gamma_t) * z_t - taken * eps_hat
        return mean + drawn.sqrt() * sigma(gamma_s) * torch.randn_like(z_t) if self.eta else mean


ANCESTRAL = Ancestral()
