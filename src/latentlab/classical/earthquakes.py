r"""A mixture of earthquakes with Gaussian locations and Poisson strengths, by coordinate ascent.

$Z_n \sim \mathrm{Cat}(\pi)$, $S_n | Z_n = k \sim \mathrm{Poisson}(\lambda_k)$,
$X_n | Z_n = k \sim N(\mu_k, \tau^{-1} I_2)$, $\mu_k \sim N(\nu, \rho^{-1} I_2)$,
$\lambda_k \sim \mathrm{Gamma}(\alpha, \beta)$ with a rate $\beta$.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import pi

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.distributions import Gamma, Normal, kl_divergence

from latentlab.classical.base import Inference, Numbers, Positive, Real, Size, check_positive, state
from latentlab.errors import UserError


def mixture_weights(weights: Sequence[float] | None, size: int) -> Tensor:
    """The probabilities of `size` components, (K,), equal for None.

    Raises:
        UserError: unless they are `size` positive numbers that sum to one.
    """
    if weights is None:
        return torch.full((size,), 1 / size, dtype=torch.float64)
    given = torch.tensor(list(weights), dtype=torch.float64)
    if len(given) != size or not (given > 0).all() or abs(float(given.sum()) - 1) > 1e-6:
        raise UserError(f"weights={list(weights)} must be {size} positive numbers that sum to 1")
    return given / given.sum()


@dataclass(frozen=True)
class Globals:
    r"""$q(\mu_k) = N(m_k, \rho_k^{*-1} I_2)$ and $q(\lambda_k) = \mathrm{Gamma}(a_k, b_k)$, for R restarts.

    Attributes:
        m: (R, K, 2).
        rho: (R, K).
        a: (R, K).
        b: (R, K).
    """

    m: Tensor
    rho: Tensor
    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Hyperparameters:
    """The constants of the model: nu (2,), log_pi (K,), the others ()."""

    nu: Tensor
    rho: Tensor
    tau: Tensor
    alpha: Tensor
    beta: Tensor
    log_pi: Tensor


def log_joint(h: Hyperparameters, data: Tensor, q: Globals) -> Tensor:
    r"""$E_q[\log p(x_n, S_n, Z_n = k | \mu, \lambda)]$ for data (N, 3) of x, y and strength, (R, N, K).

    $\log\pi_k + \log\frac{\tau}{2\pi} - \frac\tau2 (|x_n - m_k|^2 + 2/\rho^*_k) + S_n E[\log\lambda_k]
    - E[\lambda_k] - \log S_n!$
    """
    x, strength = data[:, :2], data[:, 2:]  # (N, 2), (N, 1)
    squares = torch.cdist(x.expand(len(q.m), -1, -1), q.m, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    log_location = (h.tau / (2 * pi)).log() - 0.5 * h.tau * (squares + 2 / q.rho[:, None])
    mean_log = q.a.digamma() - q.b.log()
    log_strength = strength * mean_log[:, None] - (q.a / q.b)[:, None] - (strength + 1).lgamma()
    return h.log_pi + log_location + log_strength


def responsibilities(h: Hyperparameters, data: Tensor, q: Globals) -> Tensor:
    """The optimal q(Z_n = k) = r_nk given q(mu) and q(lambda), (R, N, K)."""
    return log_joint(h, data, q).softmax(-1)


def update_globals(h: Hyperparameters, data: Tensor, r: Tensor) -> Globals:
    r"""The optimal q(mu) and q(lambda) given r (R, N, K), with $N_k = \sum_n r_{nk}$.

    $\rho^*_k = \rho + \tau N_k$, $m_k = (\rho\nu + \tau\sum_n r_{nk} x_n) / \rho^*_k$,
    $a_k = \alpha + \sum_n r_{nk} S_n$, $b_k = \beta + N_k$
    """
    counts, sums = r.sum(1), r.mT @ data  # (R, K), (R, K, 3)
    rho = h.rho + h.tau * counts
    m = (h.rho * h.nu + h.tau * sums[..., :2]) / rho[..., None]
    return Globals(m, rho, h.alpha + sums[..., 2], h.beta + counts)


def elbo(h: Hyperparameters, data: Tensor, q: Globals, r: Tensor) -> Tensor:
    r"""The ELBO in nats for the catalogue, (R,).

    $E_q[\log p(x, S, Z | \mu, \lambda)] + H[q(Z)] - \sum_k \mathrm{KL}(q(\mu_k) \| p(\mu_k))
    - \sum_k \mathrm{KL}(q(\lambda_k) \| p(\lambda_k))$
    """
    assigned = (r * log_joint(h, data, q)).sum((1, 2)) - torch.special.xlogy(r, r).sum((1, 2))
    kl_mu = kl_divergence(Normal(q.m, q.rho[..., None] ** -0.5), Normal(h.nu, h.rho**-0.5)).sum(-1)
    kl_lambda = kl_divergence(Gamma(q.a, q.b), Gamma(h.alpha, h.beta))
    return assigned - (kl_mu + kl_lambda).sum(-1)


class CAVIEarthquakes(Inference):
    """Coordinate ascent on a factorised q(Z) q(mu) q(lambda) from several random starts at once.

    The state is q(mu) and q(lambda). q(Z) is its optimum given these. The results are those of the start with the
    highest ELBO.

    Args:
        num_components: the number K of clusters.
        tau: the precision of the locations around their centre.
        nu: the prior mean of the centres.
        rho: the prior precision of the centres.
        alpha: the prior shape of the rates.
        beta: the prior rate of the rates.
        weights: the K probabilities pi; None for equal ones.
        restarts: the number of starts.
        tolerance: see `Inference`.

    Raises:
        UserError: for hyperparameters out of range.
    """

    columns = 3
    m: Tensor
    rho: Tensor
    a: Tensor
    b: Tensor

    def __init__(
        self,
        num_components: Size = 4,
        tau: Positive = 1.0,
        nu: tuple[Real, Real] = (0.0, 0.0),
        rho: Positive = 0.01,
        alpha: Positive = 2.0,
        beta: Positive = 0.2,
        weights: Sequence[NonNegativeFloat] | None = None,
        restarts: Size = 10,
        tolerance: NonNegativeFloat = 1e-10,
    ) -> None:
        super().__init__(tolerance)
        constants = {"tau": tau, "rho": rho, "alpha": alpha, "beta": beta}
        check_positive(num_components=num_components, restarts=restarts, **constants)
        if len(nu) != 2:
            raise UserError(f"nu={list(nu)} must be two coordinates")
        self.num_components = num_components
        self.restarts = restarts
        self.h = Hyperparameters(
            nu=torch.tensor(list(nu), dtype=torch.float64),
            log_pi=mixture_weights(weights, num_components).log(),
            **{k: torch.tensor(v, dtype=torch.float64) for k, v in constants.items()},
        )
        for name, shape in {"m": (2,), "rho": (), "a": (), "b": ()}.items():
            self.register_buffer(name, state(restarts, num_components, *shape))

    def set_data(self, batches: Iterable[Tensor]) -> None:
        data = torch.cat([batch.double() for batch in batches]).cpu()
        if len(data) < self.num_components:
            raise UserError(
                f"num_components={self.num_components} is more than the {len(data)} earthquakes of the catalogue"
            )
        self.data = data

    def q(self) -> Globals:
        """q(mu) and q(lambda) of each start."""
        return Globals(self.m, self.rho, self.a, self.b)

    @property
    def num_parameters(self) -> int:
        return super().num_parameters // self.restarts

    def start(self) -> None:
        """Start each cluster at one earthquake, with a rate between its strength and the mean strength."""
        chosen = torch.stack([spread_out(self.data, self.num_components) for _ in range(self.restarts)])
        share = len(self.data) / self.num_components
        self.m.copy_(chosen[..., :2])
        self.rho.copy_((self.h.rho + self.h.tau * share).expand_as(self.rho))
        self.a.copy_(self.h.alpha + share * (chosen[..., 2] + self.data[:, 2].mean()) / 2)
        self.b.copy_((self.h.beta + share).expand_as(self.b))

    def step(self) -> None:
        """Update q(Z), then q(mu) and q(lambda)."""
        q = update_globals(self.h, self.data, responsibilities(self.h, self.data, self.q()))
        for name, value in vars(q).items():
            getattr(self, name).copy_(value)

    def bounds(self) -> Tensor:
        """The ELBO of each start, (R,)."""
        q = self.q()
        return elbo(self.h, self.data, q, responsibilities(self.h, self.data, q))

    def elbo(self) -> Tensor:
        """The highest ELBO of all starts, in nats for the catalogue, ()."""
        return self.bounds().max()

    def monitors(self) -> dict[str, Tensor]:
        bounds = self.bounds()
        return {"elbo": bounds.max(), **{f"elbo_start_{i + 1}": value for i, value in enumerate(bounds)}}

    def best(self) -> Globals:
        """q(mu) and q(lambda) of the best start, (K, ...)."""
        i = int(self.bounds().argmax())
        return Globals(self.m[i], self.rho[i], self.a[i], self.b[i])

    def assignments(self) -> Tensor:
        """q(Z_n = k) of the best start, (N, K)."""
        best = Globals(*(value[None] for value in vars(self.best()).values()))
        return responsibilities(self.h, self.data, best)[0]

    def estimates(self) -> Numbers:
        """The centres and the rates of the best start, and their standard deviations."""
        q = self.best()
        columns = {
            "x": q.m[:, 0],
            "y": q.m[:, 1],
            "centre_sd": q.rho**-0.5,
            "rate": q.a / q.b,
            "rate_sd": q.a**0.5 / q.b,
        }
        return {
            f"estimate/{name}_{k + 1}": float(v)
            for name, column in columns.items()
            for k, v in enumerate(column)
        }

    def errors(self, truth: Mapping[str, Tensor]) -> Numbers:
        """The largest errors of centres and rates, and the share of earthquakes assigned to the right cluster."""
        q = self.best()
        order = match(q.m, truth["mu"])
        if order is None:
            return {}
        centres, rates = q.m[order] - truth["mu"], (q.a / q.b)[order] - truth["lambda"]
        sd_rates = (q.a.sqrt() / q.b)[order]
        same = order[truth["z"].long()] == self.assignments().argmax(-1)
        return {
            "error/centre": float(centres.norm(dim=-1).max()),
            "error/centre_in_sd": float((centres * q.rho[order].sqrt()[:, None]).abs().max()),
            "error/rate": float(rates.abs().max()),
            "error/rate_in_sd": float((rates / sd_rates).abs().max()),
            "error/assigned_rightly": float(same.double().mean()),
        }


def spread_out(data: Tensor, size: int) -> Tensor:
    """Draw `size` of the earthquakes (N, 3) far apart, by k-means++ (Arthur and Vassilvitskii 2007).

    The probability of each is proportional to its squared distance from the nearest one drawn before. If all
    distances are zero, the draw is uniform.
    """
    chosen = [data[torch.randint(len(data), ())]]
    for _ in range(size - 1):
        squares = torch.stack([((data - row)[:, :2] ** 2).sum(-1) for row in chosen]).amin(0)
        chosen.append(data[torch.multinomial(squares + squares.sum() * 1e-12 + 1e-300, 1)[0]])
    return torch.stack(chosen)


def match(found: Tensor, true: Tensor) -> Tensor | None:
    """The index of the found centre of each true centre (K, 2), nearest pairs first, (K,).

    The result is None if their numbers differ.
    """
    if len(found) != len(true):
        return None
    distances = torch.cdist(true, found)
    order = torch.zeros(len(true), dtype=torch.long)
    for _ in range(len(true)):
        row, column = divmod(int(distances.argmin()), len(found))
        order[row] = column
        distances[row], distances[:, column] = torch.inf, torch.inf
    return order
