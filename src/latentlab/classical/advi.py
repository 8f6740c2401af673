r"""Automatic differentiation variational inference: a Gaussian in unconstrained space, by reparametrised gradients.

Kucukelbir et al. 2017, "Automatic differentiation variational inference", J. Mach. Learn. Res. 18(14), section 2. With
$\theta = T^{-1}(\zeta)$ and $q(\zeta) = N(\mu, L L^T)$ the bound is
$E_q[\log p(x, T^{-1}(\zeta)) + \log |\det J_{T^{-1}}(\zeta)|] + H[q]$.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.optim import Optimizer

from latentlab.classical.base import Inference, Numbers, Positive, Real, Size, check_positive, state
from latentlab.classical.earthquakes import Hyperparameters, match, mixture_weights, spread_out
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

    def variances(self) -> dict[str, Tensor]:
        """The variance of the gradient of each free parameter, as `variance_...`."""
        named = zip(self.parameter_names(), self.variance, strict=True)
        return {f"variance_{name}": value for name, value in named}

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
        return {**super().monitors(), **self.variances()}


class ADVIEarthquakes(ADVI):
    r"""ADVI of the mixture of earthquakes with $\zeta = (\mu_1, \ldots, \mu_K, \log\lambda_1, \ldots, \log\lambda_K)$.

    The clusters Z are summed out exactly, so the log joint is
    $\sum_n \log \sum_k \pi_k\,p(x_n | \mu_k)\,p(S_n | \lambda_k) + \log p(\mu) + \log p(\lambda)$, with the
    log-determinant $\sum_k \log\lambda_k$. The ELBO is estimated from the same `bound_samples` draws at each step. For
    the same q(mu) and q(lambda) it is at least that of `CAVIEarthquakes`, which has a factorised q(Z) too.

    Args:
        step_size: makes the optimiser of the free parameters, such as `torch.optim.Adam`.
        samples: the number S of draws for a gradient, at least 2.
        full_rank: True for a full covariance matrix, False for a diagonal one (mean field).
        num_components: the number K of clusters.
        tau: the precision of the locations around their centre.
        nu: the prior mean of the centres.
        rho: the prior precision of the centres.
        alpha: the prior shape of the rates.
        beta: the prior rate of the rates.
        weights: the K probabilities pi; None for equal ones.
        restarts: the number of random starts, of which the one with the largest log joint is used.
        bound_samples: the number of draws for the ELBO.
        tolerance: see `Inference`.
        window: see `Inference`.
        max_step: the largest change of a free parameter in one step.

    Raises:
        UserError: for hyperparameters out of range.
    """

    columns = 3
    draws: Tensor

    def __init__(
        self,
        step_size: Callable[[list[Tensor]], Optimizer],
        samples: Annotated[int, Field(ge=2, le=10**7)] = 10,
        full_rank: bool = False,
        num_components: Size = 4,
        tau: Positive = 1.0,
        nu: tuple[Real, Real] = (0.0, 0.0),
        rho: Positive = 0.01,
        alpha: Positive = 2.0,
        beta: Positive = 0.2,
        weights: Sequence[NonNegativeFloat] | None = None,
        restarts: Size = 10,
        bound_samples: Size = 100,
        tolerance: NonNegativeFloat = 1e-6,
        window: PositiveInt = 200,
        max_step: Positive = 0.5,
    ) -> None:
        super().__init__(tolerance, window)
        constants = {"tau": tau, "rho": rho, "alpha": alpha, "beta": beta}
        check_positive(num_components=num_components, restarts=restarts, **constants)
        self.num_components, self.restarts = num_components, restarts
        self.h = Hyperparameters(
            nu=torch.tensor(list(nu), dtype=torch.float64),
            log_pi=mixture_weights(weights, num_components).log(),
            **{k: torch.tensor(v, dtype=torch.float64) for k, v in constants.items()},
        )
        numbers = range(1, num_components + 1)
        self.names = (
            *(f"{axis}_{k}" for k in numbers for axis in "xy"),
            *(f"log_rate_{k}" for k in numbers),
        )
        self.set_up(step_size, samples, full_rank, max_step)
        self.register_buffer("draws", state(bound_samples, len(self.names)))

    def set_data(self, batches: Iterable[Tensor]) -> None:
        data = torch.cat([batch.double() for batch in batches]).cpu()
        if len(data) < self.num_components:
            raise UserError(
                f"num_components={self.num_components} is more than the {len(data)} earthquakes of the catalogue"
            )
        self.data = data

    def start(self) -> None:
        """Start each cluster at one earthquake, with a rate between its strength and the mean strength."""
        chosen = torch.stack([spread_out(self.data, self.num_components) for _ in range(self.restarts)])
        rates = ((chosen[..., 2] + self.data[:, 2].mean()) / 2).clamp(min=0.1)
        starts = torch.cat([chosen[..., :2].flatten(1), rates.log()], dim=1)
        size = len(self.names)
        self.theta.zero_()
        self.theta[:size] = starts[self.log_joint(starts).argmax()]
        self.theta[size : 2 * size] = -2.0
        self.variance.zero_()
        self.draws.normal_()

    def log_joint(self, zeta: Tensor) -> Tensor:
        h, (mu, log_rate) = self.h, self._split(zeta)
        x, strength = self.data[:, None, :2], self.data[:, None, 2]  # (N, 1, 2), (N, 1)
        squares = ((x - mu[:, None]) ** 2).sum(-1)  # (S, N, K)
        located = (h.tau.log() - LOG_2PI) - h.tau * squares / 2
        counted = strength * log_rate[:, None] - log_rate.exp()[:, None] - (strength + 1).lgamma()
        likelihood = (h.log_pi + located + counted).logsumexp(-1).sum(-1)
        prior_mu = (h.rho.log() - LOG_2PI) - h.rho * ((mu - h.nu) ** 2).sum(-1) / 2
        shape = h.alpha * h.beta.log() - h.alpha.lgamma()
        prior_rate = shape + h.alpha * log_rate - h.beta * log_rate.exp()  # with the log-determinant
        return likelihood + (prior_mu + prior_rate).sum(-1)

    def _split(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """The centres (*, K, 2) and the log rates (*, K)."""
        flat, log_rate = zeta[..., : 2 * self.num_components], zeta[..., 2 * self.num_components :]
        return flat.unflatten(-1, (self.num_components, 2)), log_rate

    def elbo(self) -> Tensor:
        """The ELBO with all constants from fixed draws, ()."""
        return self.log_joint(self.mean + self.draws @ self.scale.mT).mean() + self.entropy()

    def monitors(self) -> dict[str, Tensor]:
        return {**super().monitors(), **self.variances()}

    def rates(self) -> Tensor:
        """The means of the log-normal rates under q, (K,)."""
        return self._split(self.mean + self._variances() / 2)[1].exp()

    def _variances(self) -> Tensor:
        return (self.scale**2).sum(-1)

    def estimates(self) -> Numbers:
        """The centres and the rates, and their standard deviations under q."""
        (centres, _), (spread, spread_log) = self._split(self.mean), self._split(self._variances())
        columns = {
            "x": centres[:, 0],
            "y": centres[:, 1],
            "centre_sd": spread.mean(-1).sqrt(),
            "rate": self.rates(),
            "rate_sd": self.rates() * spread_log.expm1().sqrt(),
        }
        return {
            f"estimate/{name}_{k + 1}": float(v)
            for name, column in columns.items()
            for k, v in enumerate(column)
        }

    def errors(self, truth: Mapping[str, Tensor]) -> Numbers:
        """The largest errors of centres and rates."""
        centres = self._split(self.mean)[0]
        order = match(centres, truth["mu"])
        if order is None:
            return {}
        return {
            "error/centre": float((centres[order] - truth["mu"]).norm(dim=-1).max()),
            "error/rate": float((self.rates()[order] - truth["lambda"]).abs().max()),
        }
