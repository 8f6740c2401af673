r"""Conjugate families: entropies and expectations, and the Normal-Gamma model with its exact posterior.

$x_i \sim N(\mu, \tau^{-1})$, $\mu | \tau \sim N(\mu_0, (\lambda_0 \tau)^{-1})$, $\tau \sim \mathrm{Gamma}(a_0, b_0)$
with a rate $b_0$
(Bishop 2006, section 10.1.3; Murphy 2007, "Conjugate Bayesian analysis of the Gaussian distribution").
"""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

LOG_2PI = log(2 * pi)


def normal_entropy(precision: Tensor) -> Tensor:
    r"""$H[N(m, l^{-1})] = \frac12 (1 + \log 2\pi - \log l)$."""
    return 0.5 * (1 + LOG_2PI - precision.log())


def gamma_entropy(a: Tensor, b: Tensor) -> Tensor:
    r"""$H[\mathrm{Gamma}(a, b)] = a - \log b + \log\Gamma(a) + (1 - a)\psi(a)$."""
    return a - b.log() + a.lgamma() + (1 - a) * a.digamma()


def gamma_mean_log(a: Tensor, b: Tensor) -> Tensor:
    r"""$E[\log \tau] = \psi(a) - \log b$ under Gamma(a, b)."""
    return a.digamma() - b.log()


@dataclass(frozen=True)
class Moments:
    """Means and variances of mu and tau, each ()."""

    mean_mu: Tensor
    var_mu: Tensor
    mean_tau: Tensor
    var_tau: Tensor


@dataclass(frozen=True)
class Statistics:
    """What the data say: their number n, their mean, and the sum of squares about it, each ()."""

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
        r"""$E[\mu] = \mu_0$, $\mathrm{Var}[\mu] = \frac{b_0}{\lambda_0 (a_0 - 1)}$ or infinite; those of tau."""
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

    With `log_squares_given` it makes up the likelihood: the mean and the squares are independent and sufficient.
    """
    precision = data.n * tau
    return 0.5 * (precision.log() - LOG_2PI - precision * (data.mean - mu) ** 2)


def log_squares_given(data: Statistics, tau: Tensor) -> Tensor:
    r"""$\log p(x | \mu, \tau) - \log p(\bar x | \mu, \tau)$, which does not depend on mu, (*)."""
    return 0.5 * ((data.n - 1) * (tau.log() - LOG_2PI) - data.n.log() - tau * data.squares)


def elbo(prior: NormalGamma, data: Statistics, m: Tensor, precision: Tensor, a: Tensor, b: Tensor) -> Tensor:
    r"""The ELBO of $q(\mu) = N(m, l^{-1})$, $q(\tau) = \mathrm{Gamma}(a, b)$, all terms, in nats for the data set, ().

    $\frac{N+1}{2} E[\log \tau] - \frac{E[\tau]}{2} (E \sum_i (x_i - \mu)^2 + \lambda_0 E(\mu - \mu_0)^2)
    + (a_0 - 1) E[\log \tau] - b_0 E[\tau] + \mathrm{const} + H[q(\mu)] + H[q(\tau)]$
    """
    mean_tau, mean_log = a / b, gamma_mean_log(a, b)
    squares = expected_squares(data, m, precision)
    deviation = prior.lambda0 * ((m - prior.mu0) ** 2 + 1 / precision)
    likelihood = 0.5 * (data.n * (mean_log - LOG_2PI) - mean_tau * squares)
    log_mu = 0.5 * (prior.lambda0.log() + mean_log - LOG_2PI - mean_tau * deviation)
    log_tau = prior.a0 * prior.b0.log() - prior.a0.lgamma() + (prior.a0 - 1) * mean_log - prior.b0 * mean_tau
    return likelihood + log_mu + log_tau + normal_entropy(precision) + gamma_entropy(a, b)


def expected_squares(data: Statistics, m: Tensor, precision: Tensor) -> Tensor:
    r"""$E \sum_i (x_i - \mu)^2 = \sum_i (x_i - \bar x)^2 + N ((\bar x - m)^2 + l^{-1})$ under $N(m, l^{-1})$, ()."""
    return data.squares + data.n * ((data.mean - m) ** 2 + 1 / precision)
