r"""Automatic differentiation variational inference: a Gaussian in unconstrained space, by reparametrised gradients.

Kucukelbir et al. 2017, "Automatic differentiation variational inference", J. Mach. Learn. Res. 18(14), section 2. With
$\theta = T^{-1}(\zeta)$ and $q(\zeta) = N(\mu, L L^T)$ the bound is
$E_q[\log p(x, T^{-1}(\zeta)) + \log |\det J_{T^{-1}}(\zeta)|] + H[q]$.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.optim import Optimizer

from latentlab.classical.base import Inference, Positive, Real, check_positive, state
from latentlab.classical.normal_gamma import (
    LOG_2PI,
    Moments,
    NormalGammaModel,
    log_mean_given,
    log_squares_given,
)
from latentlab.errors import UserError


class ADVI(Inference):
    r"""Stochastic gradient ascent on the ELBO of $q(\zeta) = N(\mu, L L^T)$, abstract.

    The free parameters are mu, the log of L's diagonal and, with a full rank, L below the diagonal. The gradient is the
    mean over draws $\epsilon \sim N(0, I)$, $\zeta = \mu + L \epsilon$. The entropy of q is exact.

    Attributes:
        names: the names of zeta's D elements.
        theta: the free parameters, (P,).
        variance: the estimated variance of the gradient of each, (P,).
    """

    names: tuple[str, ...]
    theta: Tensor
    variance: Tensor

    def set_up(
        self, step_size: Callable[[list[Tensor]], Optimizer], samples: int, full_rank: bool, max_step: float
    ) -> None:
        """Set the free parameters and their optimiser, in the constructor."""
        if samples < 2:
            raise UserError(f"samples={samples}: at least 2 draws are needed for the variance of a gradient")
        check_positive(max_step=max_step)
        size = len(self.names)
        self.samples, self.max_step = samples, max_step
        self.below = torch.tril_indices(size, size, -1)[
            :, : None if full_rank else 0
        ]  # (2, D (D - 1) / 2) or (2, 0)
        self.register_buffer("theta", state(2 * size + self.below.shape[1]))
        self.register_buffer("variance", torch.zeros_like(self.theta))
        try:
            self.optimizer = step_size([self.theta])
        except ValueError as error:
            raise UserError(f"step_size: {error}") from error

    @abstractmethod
    def log_joint(self, zeta: Tensor) -> Tensor:
        """log p(x, theta) with the log-determinant of the map from zeta (S, D), (S,)."""

    def get_extra_state(self) -> dict[int, Any]:
        """The optimiser's state, so that a resumed run continues with the same steps."""
        return self.optimizer.state_dict()["state"]

    def set_extra_state(self, state: dict[int, Any]) -> None:
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    @property
    def mean(self) -> Tensor:
        """mu, (D,)."""
        return self.theta[: len(self.names)]

    @property
    def scale(self) -> Tensor:
        """L, (D, D)."""
        size = len(self.names)
        scale = self.theta[size : 2 * size].exp().diag()
        scale[self.below[0], self.below[1]] = self.theta[2 * size :]
        return scale

    @property
    def num_parameters(self) -> int:
        return len(self.theta)

    def entropy(self) -> Tensor:
        r"""$\frac D2 (1 + \log 2\pi) + \log \det L$, ()."""
        size = len(self.names)
        return 0.5 * size * (1 + LOG_2PI) + self.theta[size : 2 * size].sum()

    def step(self) -> None:
        """Take one gradient step, and estimate the variance of the gradient."""
        contributions = self.contributions(self.samples)
        self.variance.copy_(contributions.var(0) / self.samples)
        before = self.theta.clone()
        self.theta.grad = -contributions.mean(0)  # the optimiser minimises
        self.optimizer.step()
        self.theta.clamp_(before - self.max_step, before + self.max_step)

    def contributions(self, samples: int) -> Tensor:
        """The contributions of draws to the gradient, which is their mean, (S, P)."""
        e = torch.randn(samples, len(self.names), dtype=torch.float64)
        scale = self.scale
        with torch.enable_grad():
            zeta = (self.mean + e @ scale.mT).requires_grad_()
            (slope,) = torch.autograd.grad(self.log_joint(zeta).sum(), zeta)
        of_diagonal = slope * e * scale.diagonal() + 1
        return torch.cat([slope, of_diagonal, slope[:, self.below[0]] * e[:, self.below[1]]], dim=1)

    def parameter_names(self) -> list[str]:
        """The names of the free parameters, P of them."""
        pairs = zip(*self.below.tolist(), strict=True)
        below = [f"l_{self.names[i]}_{self.names[j]}" for i, j in pairs]
        return [f"{kind}_{name}" for kind in ("m", "log_s") for name in self.names] + below


class ADVINormalGamma(ADVI, NormalGammaModel):
    r"""ADVI of the Normal-Gamma model with $\zeta = (\mu, \log \tau)$.

    The log-determinant is $\log \tau$. The expectations in the ELBO have a closed form, so the ELBO is exact.

    Args:
        step_size: makes the optimiser of the free parameters, such as `torch.optim.Adam`.
        samples: the number S of draws for a gradient, at least 2.
        full_rank: True for a full covariance matrix, False for a diagonal one (mean field).
        mu0: the prior mean of mu.
        lambda0: the prior precision of mu in units of tau.
        a0: the prior shape of tau.
        b0: the prior rate of tau.
        tolerance: see `Inference`.
        window: see `Inference`.
        max_step: the largest change of a free parameter in one step.

    Raises:
        UserError: for fewer than two draws, or a value that the optimiser refuses.
    """

    names = ("mu", "log_tau")

    def __init__(
        self,
        step_size: Callable[[list[Tensor]], Optimizer],
        samples: Annotated[int, Field(ge=2, le=10**7)] = 10,
        full_rank: bool = False,
        mu0: Real = 1.0,
        lambda0: Positive = 0.1,
        a0: Positive = 1.0,
        b0: Positive = 2.0,
        tolerance: NonNegativeFloat = 1e-6,
        window: PositiveInt = 500,
        max_step: Positive = 0.5,
    ) -> None:
        NormalGammaModel.__init__(self, mu0, lambda0, a0, b0, tolerance, window)
        self.set_up(step_size, samples, full_rank, max_step)

    def start(self) -> None:
        """Start from the mean 0 and the identity as covariance."""
        self.theta.zero_()
        self.variance.zero_()

    def log_joint(self, zeta: Tensor) -> Tensor:
        mu, log_tau = zeta.unbind(-1)
        tau = log_tau.exp()
        likelihood = log_mean_given(self.data, mu, tau) + log_squares_given(self.data, tau)
        return likelihood + self.prior.log_prob(mu, tau) + log_tau

    def elbo(self) -> Tensor:
        r"""The exact ELBO, ().

        The log joint is linear in $\log \tau$, $\tau$ and $\tau (\mu - c)^2$. With the variances v and the covariance k
        of q, $E[\tau (\mu - c)^2] = E[\tau]\,((m_\mu + k - c)^2 + v_\mu)$ and
        $E[\tau] = e^{m_{\log\tau} + v_{\log\tau} / 2}$.
        """
        p, data, moments = self.prior, self.data, self.moments()
        tilted, log_tau = self.mean[0] + self.covariance[0, 1], self.mean[1]
        squares = data.n * ((tilted - data.mean) ** 2 + moments.var_mu) + data.squares
        deviation = p.lambda0 * ((tilted - p.mu0) ** 2 + moments.var_mu)
        constants = 0.5 * (p.lambda0.log() - (data.n + 1) * LOG_2PI) + p.a0 * p.b0.log() - p.a0.lgamma()
        powers = ((data.n + 1) / 2 + p.a0) * log_tau
        return constants + powers - moments.mean_tau * ((squares + deviation) / 2 + p.b0) + self.entropy()

    @property
    def covariance(self) -> Tensor:
        return self.scale @ self.scale.mT

    def moments(self) -> Moments:
        """The means and variances of mu and of the log-normal tau under q."""
        covariance = self.covariance
        mean_tau = (self.mean[1] + covariance[1, 1] / 2).exp()
        return Moments(self.mean[0], covariance[0, 0], mean_tau, mean_tau**2 * covariance[1, 1].expm1())

    def monitors(self) -> dict[str, Tensor]:
        variances = zip(self.parameter_names(), self.variance, strict=True)
        return {**super().monitors(), **{f"variance_{name}": value for name, value in variances}}
