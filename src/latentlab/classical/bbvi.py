r"""Black-box variational inference of the Normal-Gamma model with two ways to reduce the gradient's variance.

$\nabla_\theta L = E_q[\nabla_\theta \log q(z | \theta)\,(\log p(x, z) - \log q(z | \theta))]$
(Ranganath, Gerrish and Blei 2014, eq. 3).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.distributions import Gamma
from torch.optim import Optimizer

from latentlab.classical.base import Positive, Real, check_positive, state
from latentlab.classical.normal_gamma import LOG_2PI, NormalGammaInference, log_mean_given, log_squares_given
from latentlab.errors import UserError

NAMES = ("m", "log_s", "log_a", "log_b")


class RobbinsMonro(Optimizer):
    r"""Gradient descent with step sizes $(t_0 + t)^{-\kappa}$ (Robbins and Monro 1951), t from 0.

    Args:
        params: the tensors to optimise.
        offset: $t_0$.
        exponent: $\kappa$ in (0.5, 1], so that the iteration converges.

    Raises:
        UserError: for values outside.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        offset: Positive = 1000.0,
        exponent: Positive = 1.0,
    ) -> None:
        check_positive(offset=offset)
        if not 0.5 < exponent <= 1:
            raise UserError(
                f"step_size.exponent={exponent}: Robbins-Monro steps converge for exponents in (0.5, 1]"
            )
        super().__init__(params, {"offset": offset, "exponent": exponent})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                t = self.state[parameter].get("step", 0)
                parameter.sub_(parameter.grad * (group["offset"] + t) ** -group["exponent"])
                self.state[parameter]["step"] = t + 1


@dataclass(frozen=True)
class VariationalDraws:
    """Draws of mu and tau from q, each (S, *), and their densities under q.

    Attributes:
        mu: the draws of mu.
        tau: the draws of tau.
        log_q_mu: log q(mu).
        log_q_tau: log q(tau).
        scores: the derivatives of log q(mu, tau) by the four parameters, (S, *, 4).
    """

    mu: Tensor
    tau: Tensor
    log_q_mu: Tensor
    log_q_tau: Tensor
    scores: Tensor


def with_control_variate(terms: Tensor, scores: Tensor) -> Tensor:
    r"""Unbiased contributions $h_s (f_s - c_{-s})$ with the score h as control variate; f and h are (S, *, P).

    $c_{-s} = \sum_{r \ne s} f_r h_r^2 / \sum_{r \ne s} h_r^2$ estimates the best coefficient
    $\mathrm{Cov}(fh, h) / \mathrm{Var}(h)$ (Ranganath et al. 2014, eq. 10) from the other draws. An estimate from all
    draws would depend on $h_s$ and make the gradient biased.
    """
    weighted, weights = terms * scores**2, scores**2
    others = (weighted.sum(0) - weighted) / (weights.sum(0) - weights)
    return scores * (terms - others)


class BBVINormalGamma(NormalGammaInference):
    r"""Stochastic gradient ascent on the ELBO of $q(\mu) = N(m, s^2)$ and $q(\tau) = \mathrm{Gamma}(a, b)$.

    The free parameters are m, log s, log a and log b, so s, a and b stay positive. The log joint has the factors
    $\log p(\bar x | \mu, \tau) + \log p(x | \bar x, \tau) + \log p(\mu | \tau) + \log p(\tau)$. With
    Rao-Blackwellisation a parameter's gradient has only the factors that contain its variable
    (Ranganath et al. 2014, eq. 5).

    Args:
        step_size: makes the optimiser of the free parameters, such as `RobbinsMonro` or `torch.optim.Adam`.
        samples: the number S of draws for a gradient, at least 2.
        control_variates: True to use the score as a control variate.
        rao_blackwell: True to leave out the factors that do not contain the variable.
        mu0: the prior mean of mu.
        lambda0: the prior precision of mu in units of tau.
        a0: the prior shape of tau.
        b0: the prior rate of tau.
        tolerance: see `Inference`.
        window: see `Inference`.
        max_step: the largest change of a free parameter in one step. The plain gradient has heavy tails, and a single
            draw could otherwise push a far out of range.

    Raises:
        UserError: for fewer than two draws, which have no variance, or a value that the optimiser refuses.
    """

    theta: Tensor
    variance: Tensor

    def __init__(
        self,
        step_size: Callable[[list[Tensor]], Optimizer],
        samples: Annotated[int, Field(ge=2, le=10**7)] = 10,
        control_variates: bool = True,
        rao_blackwell: bool = True,
        mu0: Real = 1.0,
        lambda0: Positive = 0.1,
        a0: Positive = 1.0,
        b0: Positive = 2.0,
        tolerance: NonNegativeFloat = 1e-6,
        window: PositiveInt = 500,
        max_step: Positive = 0.5,
    ) -> None:
        super().__init__(mu0, lambda0, a0, b0, tolerance, window)
        if samples < 2:
            raise UserError(f"samples={samples}: at least 2 draws are needed for the variance of a gradient")
        check_positive(max_step=max_step)
        self.samples = samples
        self.max_step = max_step
        self.control_variates = control_variates
        self.rao_blackwell = rao_blackwell
        self.register_buffer("theta", state(len(NAMES)))
        self.register_buffer("variance", state(len(NAMES)))
        try:
            self.optimizer = step_size([self.theta])
        except ValueError as error:
            raise UserError(f"step_size: {error}") from error

    def get_extra_state(self) -> dict[int, Any]:
        """The optimiser's state, so that a resumed run continues with the same steps."""
        return self.optimizer.state_dict()["state"]

    def set_extra_state(self, state: dict[int, Any]) -> None:
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def q(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        m, log_s, log_a, log_b = self.theta
        return m, (-2 * log_s).exp(), log_a.exp(), log_b.exp()

    @property
    def num_parameters(self) -> int:
        return len(NAMES)

    def start(self) -> None:
        """Start from m = 0 and s = a = b = 1."""
        self.theta.zero_()
        self.variance.zero_()

    def step(self) -> None:
        """Take one gradient step, and estimate the variance of the gradient."""
        contributions = self.contributions(self.samples)
        self.variance.copy_(contributions.var(0) / self.samples)
        before = self.theta.clone()
        self.theta.grad = -contributions.mean(0)  # the optimiser minimises
        self.optimizer.step()
        self.theta.clamp_(before - self.max_step, before + self.max_step)

    def contributions(self, *shape: int) -> Tensor:
        """The contributions of draws (S, *) to the gradient, which is their mean over S, (S, *, 4)."""
        draws = self.draw(*shape)
        terms = self._blankets(draws) if self.rao_blackwell else self._log_w(draws)
        return with_control_variate(terms, draws.scores) if self.control_variates else terms * draws.scores

    def draw(self, *shape: int) -> VariationalDraws:
        """Draw from q."""
        m, precision, a, b = self.q()
        e = torch.randn(shape, dtype=torch.float64)
        mu, tau = m + e / precision.sqrt(), Gamma(a, b, validate_args=False).sample(shape)
        log_tau = tau.log()
        scores = [
            e * precision.sqrt(),
            e**2 - 1,
            a * (b.log() - a.digamma() + log_tau),
            a - b * tau,
        ]
        log_q_mu = 0.5 * (precision.log() - LOG_2PI - e**2)
        log_q_tau = a * b.log() - a.lgamma() + (a - 1) * log_tau - b * tau
        return VariationalDraws(mu, tau, log_q_mu, log_q_tau, torch.stack(scores, dim=-1))

    def monitors(self) -> dict[str, Tensor]:
        variances = zip(NAMES, self.variance, strict=True)
        return {**super().monitors(), **{f"variance_{name}": value for name, value in variances}}

    def _log_w(self, draws: VariationalDraws) -> Tensor:
        likelihood = log_mean_given(self.data, draws.mu, draws.tau) + log_squares_given(self.data, draws.tau)
        log_p = likelihood + self.prior.log_prob(draws.mu, draws.tau)
        return (log_p - draws.log_q_mu - draws.log_q_tau)[..., None].expand_as(draws.scores)

    def _blankets(self, draws: VariationalDraws) -> Tensor:
        both = log_mean_given(self.data, draws.mu, draws.tau) + self.prior.log_mu_tau(draws.mu, draws.tau)
        of_mu = both - draws.log_q_mu
        of_tau = (
            both + log_squares_given(self.data, draws.tau) + self.prior.log_tau(draws.tau) - draws.log_q_tau
        )
        return torch.stack([of_mu, of_mu, of_tau, of_tau], dim=-1)
