r"""Black-box variational inference: the score-function gradient of the ELBO and two ways to quieten it.

$\nabla_\theta L = E_q[\nabla_\theta \log q(z | \theta)\,(\log p(x, z) - \log q(z | \theta))]$
(Ranganath, Gerrish and Blei 2014, eq. 3).
"""

from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import Gamma

from latentlab.classical.base import state
from latentlab.classical.checks import check_positive
from latentlab.classical.conjugate import LOG_2PI, log_mean_given, log_squares_given
from latentlab.classical.normal_gamma import NormalGammaInference
from latentlab.classical.steps import Steps
from latentlab.errors import UserError

NAMES = ("m", "log_s", "log_a", "log_b")


@dataclass(frozen=True)
class Draws:
    """S draws of mu and tau from q, each (S,), with what q says of them.

    Attributes:
        mu: the draws of mu.
        tau: the draws of tau.
        log_q_mu: log q(mu).
        log_q_tau: log q(tau).
        scores: the derivatives of log q(mu, tau) by the four parameters, (S, 4).
    """

    mu: Tensor
    tau: Tensor
    log_q_mu: Tensor
    log_q_tau: Tensor
    scores: Tensor


def with_control_variate(terms: Tensor, scores: Tensor) -> Tensor:
    r"""Contributions $h_s (f_s - c_{-s})$ with the score h as control variate, without bias; f and h are (S, P).

    $c_{-s} = \sum_{r \ne s} f_r h_r^2 / \sum_{r \ne s} h_r^2$ estimates the best coefficient
    $\mathrm{Cov}(fh, h) / \mathrm{Var}(h)$ (Ranganath et al. 2014, eq. 10) from the other draws: from all draws
    it would depend on $h_s$, and the mean of the contributions would be biased.
    """
    weighted, weights = terms * scores**2, scores**2
    others = (weighted.sum(0) - weighted) / (weights.sum(0) - weights)
    return scores * (terms - others)


class BBVINormalGamma(NormalGammaInference):
    r"""Stochastic ascent on the ELBO of $q(\mu) = N(m, s^2)$, $q(\tau) = \mathrm{Gamma}(a, b)$ by the score function.

    The free parameters are m, log s, log a, log b, so that s, a, b stay positive. With Rao-Blackwellisation each
    parameter's gradient has those factors of $\log p(\bar x | \mu, \tau) + \log p(x | \bar x, \tau) +
    \log p(\mu | \tau) + \log p(\tau) - \log q(\mu) - \log q(\tau)$ only that contain
    its variable (Ranganath et al. 2014, eq. 5).

    Args:
        steps: the rule for step sizes.
        samples: the draws S for a gradient, at least 2.
        control_variates: whether the score is used as a control variate.
        rao_blackwell: whether factors without the variable are left out.
        mu0: the prior mean of mu.
        lambda0: the prior precision of mu in units of tau.
        a0: the prior shape of tau.
        b0: the prior rate of tau.
        tolerance: see `Inference`.
        window: see `Inference`.
        max_step: the largest change of a free parameter in one step: the plain gradient's tails are heavy, and one draw
            would throw a far out of range. Converging steps are smaller in the end.

    Raises:
        UserError: for fewer than two draws, which have no variance.
    """

    theta: Tensor
    variance: Tensor

    def __init__(
        self,
        steps: Steps,
        samples: PositiveInt = 10,
        control_variates: bool = True,
        rao_blackwell: bool = True,
        mu0: float = 1.0,
        lambda0: PositiveFloat = 0.1,
        a0: PositiveFloat = 1.0,
        b0: PositiveFloat = 2.0,
        tolerance: NonNegativeFloat = 1e-6,
        window: PositiveInt = 500,
        max_step: PositiveFloat = 0.5,
    ) -> None:
        super().__init__(mu0, lambda0, a0, b0, tolerance, window)
        if samples < 2:
            raise UserError(
                f"samples={samples}: at least 2 draws are needed for the variance of a gradient and its control variate"
            )
        self.steps = steps
        self.steps.reset(len(NAMES))
        check_positive(max_step=max_step)
        self.samples = samples
        self.max_step = max_step
        self.control_variates = control_variates
        self.rao_blackwell = rao_blackwell
        self.register_buffer("theta", state(len(NAMES)))
        self.register_buffer("variance", state(len(NAMES)))

    def q(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameters m, l = 1/s^2, a, b of q, each ()."""
        m, log_s, log_a, log_b = self.theta
        return m, (-2 * log_s).exp(), log_a.exp(), log_b.exp()

    @property
    def num_parameters(self) -> int:
        """m, log s, log a, log b: neither the variances nor the state of the steps."""
        return len(NAMES)

    def start(self) -> None:
        """Start from m = 0 and s = a = b = 1."""
        self.theta.zero_()
        self.variance.zero_()

    def step(self) -> None:
        """One gradient and one step along it; `variance` is the estimated variance of that gradient."""
        contributions = self.contributions(self.samples)
        self.variance.copy_(contributions.var(0) / self.samples)
        increment = self.steps.increment(contributions.mean(0))
        self.theta.add_(increment.clamp(-self.max_step, self.max_step))

    def contributions(self, samples: int) -> Tensor:
        """What each draw contributes to the gradient, their mean, (S, 4)."""
        draws = self.draw(samples)
        terms = self._blankets(draws) if self.rao_blackwell else self._log_w(draws)
        return with_control_variate(terms, draws.scores) if self.control_variates else terms * draws.scores

    def draw(self, samples: int) -> Draws:
        """S draws from q with their scores."""
        m, precision, a, b = self.q()
        e = torch.randn(samples, dtype=torch.float64)
        mu, tau = m + e / precision.sqrt(), Gamma(a, b, validate_args=False).sample((samples,))
        log_tau = tau.log()
        scores = [
            e * precision.sqrt(),
            e**2 - 1,
            a * (b.log() - a.digamma() + log_tau),
            a - b * tau,
        ]
        log_q_mu = 0.5 * (precision.log() - LOG_2PI - e**2)
        log_q_tau = a * b.log() - a.lgamma() + (a - 1) * log_tau - b * tau
        return Draws(mu, tau, log_q_mu, log_q_tau, torch.stack(scores, dim=1))

    def monitors(self) -> dict[str, Tensor]:
        """The ELBO, E[mu], E[tau], and the variances of the gradient's four components."""
        variances = zip(NAMES, self.variance, strict=True)
        return {**super().monitors(), **{f"variance_{name}": value for name, value in variances}}

    def _log_w(self, draws: Draws) -> Tensor:
        likelihood = log_mean_given(self.data, draws.mu, draws.tau) + log_squares_given(self.data, draws.tau)
        log_p = likelihood + self.prior.log_prob(draws.mu, draws.tau)
        return (log_p - draws.log_q_mu - draws.log_q_tau)[:, None].expand(-1, len(NAMES))

    def _blankets(self, draws: Draws) -> Tensor:
        both = log_mean_given(self.data, draws.mu, draws.tau) + self.prior.log_mu_tau(draws.mu, draws.tau)
        of_mu = both - draws.log_q_mu
        of_tau = (
            both + log_squares_given(self.data, draws.tau) + self.prior.log_tau(draws.tau) - draws.log_q_tau
        )
        return torch.stack([of_mu, of_mu, of_tau, of_tau], dim=1)
