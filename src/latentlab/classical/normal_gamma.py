r"""The Normal-Gamma model, its exact posterior, and coordinate ascent on a factorised approximation.

$x_i \sim N(\mu, \tau^{-1})$, $\mu | \tau \sim N(\mu_0, (\lambda_0 \tau)^{-1})$, $\tau \sim \mathrm{Gamma}(a_0, b_0)$
with a rate $b_0$
(Bishop 2006, section 10.1.3; Murphy 2007, "Conjugate Bayesian analysis of the Gaussian distribution").
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from math import log, pi

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.distributions import Gamma, Normal, kl_divergence

from latentlab.classical.base import Inference, Numbers, Positive, Real, check_positive, state
from latentlab.errors import UserError

LOG_2PI = log(2 * pi)


@dataclass(frozen=True)
class Moments:
    """Means and variances of mu and tau, each ()."""

    mean_mu: Tensor
    var_mu: Tensor
    mean_tau: Tensor
    var_tau: Tensor


@dataclass(frozen=True)
class Statistics:
    """The sufficient statistics of the data: their number, their mean, and their squared deviations, each ()."""

    n: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Statistics":
        """The statistics of observations x (N,)."""
        n = torch.tensor(float(x.numel()), dtype=torch.float64, device=x.device)
        return cls(n, x.mean(), ((x - x.mean()) ** 2).sum())


@dataclass(frozen=True)
class NormalGamma:
    r"""$p(\mu, \tau) = N(\mu | \mu_0, (\lambda_0 \tau)^{-1})\,\mathrm{Gamma}(\tau | a_0, b_0)$; all (), float64."""

    mu0: Tensor
    lambda0: Tensor
    a0: Tensor
    b0: Tensor

    def posterior(self, data: Statistics) -> "NormalGamma":
        r"""The exact posterior, of the same family.

        $\lambda_N = \lambda_0 + N$, $\mu_N = (\lambda_0 \mu_0 + N \bar x) / \lambda_N$, $a_N = a_0 + N/2$,
        $b_N = b_0 + \frac12 \sum_i (x_i - \bar x)^2 + \frac{\lambda_0 N (\bar x - \mu_0)^2}{2 \lambda_N}$
        """
        lambda_n = self.lambda0 + data.n
        mu_n = (self.lambda0 * self.mu0 + data.n * data.mean) / lambda_n
        shift = self.lambda0 * data.n * (data.mean - self.mu0) ** 2 / lambda_n
        return NormalGamma(mu_n, lambda_n, self.a0 + data.n / 2, self.b0 + (data.squares + shift) / 2)

    def log_evidence(self, data: Statistics) -> Tensor:
        r"""$\log p(x) = \log\frac{\Gamma(a_N)}{\Gamma(a_0)} + a_0 \log b_0 - a_N \log b_N
        + \frac12 \log\frac{\lambda_0}{\lambda_N} - \frac N2 \log 2\pi$, ().
        """
        post = self.posterior(data)
        gammas = post.a0.lgamma() - self.a0.lgamma() + self.a0 * self.b0.log() - post.a0 * post.b0.log()
        return gammas + 0.5 * (self.lambda0 / post.lambda0).log() - 0.5 * data.n * LOG_2PI

    def moments(self) -> Moments:
        r"""The means and variances. $\mathrm{Var}[\mu] = \frac{b_0}{\lambda_0 (a_0 - 1)}$, infinite for $a_0 \le 1$."""
        var_mu = self.b0 / (self.lambda0 * (self.a0 - 1).clamp(min=0))
        return Moments(self.mu0, var_mu, self.a0 / self.b0, self.a0 / self.b0**2)

    def log_prob(self, mu: Tensor, tau: Tensor) -> Tensor:
        """log p(mu, tau), (*)."""
        return self.log_mu_tau(mu, tau) + self.log_tau(tau)

    def log_mu_tau(self, mu: Tensor, tau: Tensor) -> Tensor:
        """log p(mu | tau), (*)."""
        precision = self.lambda0 * tau
        return 0.5 * (precision.log() - LOG_2PI - precision * (mu - self.mu0) ** 2)

    def log_tau(self, tau: Tensor) -> Tensor:
        """log p(tau), (*)."""
        return self.a0 * self.b0.log() - self.a0.lgamma() + (self.a0 - 1) * tau.log() - self.b0 * tau


def log_mean_given(data: Statistics, mu: Tensor, tau: Tensor) -> Tensor:
    r"""$\log p(\bar x | \mu, \tau) = \log N(\bar x | \mu, (N\tau)^{-1})$, (*).

    The log-likelihood is the sum of this factor and `log_squares_given`.
    """
    precision = data.n * tau
    return 0.5 * (precision.log() - LOG_2PI - precision * (data.mean - mu) ** 2)


def log_squares_given(data: Statistics, tau: Tensor) -> Tensor:
    r"""$\log p(x | \mu, \tau) - \log p(\bar x | \mu, \tau)$, (*). It does not depend on mu."""
    return 0.5 * ((data.n - 1) * (tau.log() - LOG_2PI) - data.n.log() - tau * data.squares)


def expected_squares(data: Statistics, m: Tensor, precision: Tensor) -> Tensor:
    r"""$E \sum_i (x_i - \mu)^2 = \sum_i (x_i - \bar x)^2 + N ((\bar x - m)^2 + l^{-1})$ under $N(m, l^{-1})$, ()."""
    return data.squares + data.n * ((data.mean - m) ** 2 + 1 / precision)


def elbo(prior: NormalGamma, data: Statistics, m: Tensor, precision: Tensor, a: Tensor, b: Tensor) -> Tensor:
    r"""The ELBO of $q(\mu) = N(m, l^{-1})$ and $q(\tau) = \mathrm{Gamma}(a, b)$ in nats for the data set, ().

    $\frac{N+1}{2} E[\log \tau] - \frac{E[\tau]}{2} (E \sum_i (x_i - \mu)^2 + \lambda_0 E(\mu - \mu_0)^2)
    + \mathrm{const} + H[q(\mu)] - \mathrm{KL}(q(\tau) \| p(\tau))$
    """
    mean_tau, mean_log = a / b, a.digamma() - b.log()
    deviation = prior.lambda0 * ((m - prior.mu0) ** 2 + 1 / precision)
    likelihood = 0.5 * (data.n * (mean_log - LOG_2PI) - mean_tau * expected_squares(data, m, precision))
    log_mu = 0.5 * (prior.lambda0.log() + mean_log - LOG_2PI - mean_tau * deviation)
    kl_tau = kl_divergence(Gamma(a, b), Gamma(prior.a0, prior.b0))
    return likelihood + log_mu + Normal(m, precision**-0.5).entropy() - kl_tau


class NormalGammaModel(Inference):
    """Inference of the Normal-Gamma model with any q, abstract.

    Args:
        mu0: the prior mean of mu.
        lambda0: the prior precision of mu in units of tau.
        a0: the prior shape of tau.
        b0: the prior rate of tau.
        tolerance: see `Inference`.
        window: see `Inference`.

    Raises:
        UserError: for hyperparameters that are not positive.
    """

    def __init__(
        self,
        mu0: Real,
        lambda0: Positive,
        a0: Positive,
        b0: Positive,
        tolerance: NonNegativeFloat,
        window: PositiveInt,
    ) -> None:
        super().__init__(tolerance, window)
        check_positive(lambda0=lambda0, a0=a0, b0=b0)
        self.prior = NormalGamma(*torch.tensor([mu0, lambda0, a0, b0], dtype=torch.float64))

    @abstractmethod
    def moments(self) -> Moments:
        """The means and variances of q."""

    def set_data(self, batches: Iterable[Tensor]) -> None:
        x = torch.cat([batch.double().flatten() for batch in batches])
        if not x.isfinite().all():
            raise UserError("the observations are not all finite")
        self.data = Statistics.of(x.cpu())

    def exact(self) -> NormalGamma:
        """The exact posterior."""
        return self.prior.posterior(self.data)

    def monitors(self) -> dict[str, Tensor]:
        moments = self.moments()
        return {"elbo": self.elbo(), "mean_mu": moments.mean_mu, "mean_tau": moments.mean_tau}

    def estimates(self) -> Numbers:
        """The moments of q, the finite moments of the exact posterior, and the log evidence."""
        found = {f"estimate/{name}": float(value) for name, value in vars(self.moments()).items()}
        moments = vars(self.exact().moments()).items()
        exact = {f"exact/{name}": float(value) for name, value in moments if value.isfinite()}
        return {**found, **exact, "exact/log_evidence": float(self.prior.log_evidence(self.data))}


class NormalGammaInference(NormalGammaModel):
    r"""Inference with a factorised $q(\mu)\,q(\tau) = N(m, l^{-1})\,\mathrm{Gamma}(a, b)$, abstract."""

    @abstractmethod
    def q(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameters m, l, a, b of q, each ()."""

    def elbo(self) -> Tensor:
        return elbo(self.prior, self.data, *self.q())

    def moments(self) -> Moments:
        m, precision, a, b = self.q()
        return Moments(m, 1 / precision, a / b, a / b**2)


class CAVINormalGamma(NormalGammaInference):
    r"""Coordinate ascent on $q(\mu)\,q(\tau)$ (Bishop 2006, eq. 10.26-10.30).

    $m = \frac{\lambda_0 \mu_0 + N \bar x}{\lambda_0 + N}$, $l = (\lambda_0 + N) \frac ab$, $a = a_0 + \frac{N + 1}{2}$,
    $b = b_0 + \frac12 (E \sum_i (x_i - \mu)^2 + \lambda_0 E(\mu - \mu_0)^2)$.
    The shape has (N + 1) / 2 instead of N / 2, because $p(\mu | \tau)$ contributes a factor $\tau^{1/2}$. At the fixed
    point $E_q[\mu]$ and $E_q[\tau]$ are exact and both variances are too small.

    Args:
        mu0: the prior mean of mu.
        lambda0: the prior precision of mu in units of tau.
        a0: the prior shape of tau.
        b0: the prior rate of tau.
        tolerance: see `Inference`.
        window: see `Inference`.
    """

    m: Tensor
    precision: Tensor
    a: Tensor
    b: Tensor

    def __init__(
        self,
        mu0: Real = 1.0,
        lambda0: Positive = 0.1,
        a0: Positive = 1.0,
        b0: Positive = 2.0,
        tolerance: NonNegativeFloat = 1e-14,
        window: PositiveInt = 1,
    ) -> None:
        super().__init__(mu0, lambda0, a0, b0, tolerance, window)
        for name in ("m", "precision", "a", "b"):
            self.register_buffer(name, state())

    def q(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.m, self.precision, self.a, self.b

    def start(self) -> None:
        """Start from the prior."""
        self.m.copy_(self.prior.mu0)
        self.precision.copy_(self.prior.lambda0 * self.prior.a0 / self.prior.b0)
        self.a.copy_(self.prior.a0)
        self.b.copy_(self.prior.b0)

    def step(self) -> None:
        self.update_mu()
        self.update_tau()

    def update_mu(self) -> None:
        """Set q(mu) to its optimum given q(tau)."""
        precision = self.prior.lambda0 + self.data.n
        self.m.copy_((self.prior.lambda0 * self.prior.mu0 + self.data.n * self.data.mean) / precision)
        self.precision.copy_(precision * self.a / self.b)

    def update_tau(self) -> None:
        """Set q(tau) to its optimum given q(mu)."""
        deviation = self.prior.lambda0 * ((self.m - self.prior.mu0) ** 2 + 1 / self.precision)
        self.a.copy_(self.prior.a0 + (self.data.n + 1) / 2)
        self.b.copy_(self.prior.b0 + 0.5 * (expected_squares(self.data, self.m, self.precision) + deviation))
