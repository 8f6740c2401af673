r"""Mixtures of normal distributions with full covariances: by EM, coordinate ascent and stochastic natural gradients.

$z_n \sim \mathrm{Cat}(\pi)$, $x_n | z_n = k \sim N(\mu_k, \Lambda_k^{-1})$. The variational methods have the priors
$\pi \sim \mathrm{Dir}(\alpha_0)$ and $\mu_k, \Lambda_k \sim N(m_0, (\beta_0 \Lambda_k)^{-1})\,W(W_0, \nu_0)$
(Bishop 2006, section 10.2).

All of them keep the expected sufficient statistics of each component: $N_k = \sum_n r_{nk}$, $\sum_n r_{nk} x_n$ and
$\sum_n r_{nk} x_n x_n^\top$. The natural parameters of the posterior are those of the prior plus the statistics, so a
natural-gradient step moves the statistics.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from math import log, pi
from typing import Annotated, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.distributions import Dirichlet, MultivariateNormal, kl_divergence

from latentlab.classical.base import (
    Inference,
    Numbers,
    Positive,
    Size,
    Source,
    forgetting_rate,
    matched,
    state,
)
from latentlab.classical.earthquakes import spread_out
from latentlab.errors import UserError
from latentlab.protocols import Protocol

# A variance below this share of the data's is a collapsed component.
LEAST_SHARE = 1e-9


class Posterior(NamedTuple):
    """q(pi, mu, Lambda): alpha (K,), beta (K,), m (K, C), the scale matrix W (K, C, C) and nu (K,)."""

    alpha: Tensor
    beta: Tensor
    m: Tensor
    w: Tensor
    nu: Tensor


class GaussianMixture(Inference, ABC):
    """A mixture of K normal distributions, kept as expected sufficient statistics.

    Args:
        num_components: K.
        tolerance: see `Inference`.

    Attributes:
        n: (K,).
        sx: (K, C).
        sxx: (K, C, C).
    """

    n: Tensor
    sx: Tensor
    sxx: Tensor

    def __init__(
        self, num_components: Size = 3, tolerance: NonNegativeFloat = 1e-8, columns: Size = 2
    ) -> None:
        super().__init__(tolerance)
        self.num_components, self.dimensions = num_components, columns
        for name, shape in {"n": (), "sx": (columns,), "sxx": (columns, columns)}.items():
            self.register_buffer(name, state(num_components, *shape))

    def check(self, protocol: Protocol | Source) -> None:
        if not isinstance(protocol, Source) or protocol.kind != "numbers":
            raise UserError(
                f"{type(self).__name__} needs points, not {protocol.name} data: leave out data=... for simulated "
                "ones, or use data=points_csv data.source.path=FILE"
            )
        if protocol.x.shape[1] != self.dimensions:
            raise UserError(
                f"model.columns={self.dimensions}: the data have {protocol.x.shape[1]} columns: give that number"
            )

    def set_data(self, batches: Iterable[Tensor]) -> None:
        self.x = torch.cat([batch.double() for batch in batches]).cpu()
        if len(self.x) < max(self.num_components, self.dimensions + 1):
            raise UserError(f"num_components={self.num_components} is too many for {len(self.x)} points")
        self.least = LEAST_SHARE * self.x.var(0).mean().clamp(min=1e-300)

    def start(self) -> None:
        """Start from the nearest of K points that are far apart."""
        nearest = torch.cdist(self.x, spread_out(self.x, self.num_components)).argmin(1)
        r = torch.nn.functional.one_hot(nearest, self.num_components).double()
        self.keep(self.statistics(self.x, r))

    def statistics(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The statistics of points x (N, C) with responsibilities r (N, K)."""
        return r.sum(0), r.T @ x, torch.einsum("nk,ni,nj->kij", r, x, x)

    def keep(self, statistics: Iterable[Tensor]) -> None:
        """Set the statistics."""
        for buffer, value in zip((self.n, self.sx, self.sxx), statistics, strict=True):
            buffer.copy_(value)

    @abstractmethod
    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z = k), or its expectation under q, for points x (N, C), (N, K)."""

    def responsibilities(self, x: Tensor) -> Tensor:
        """The optimal q(z_n = k), (N, K)."""
        return self.log_joint(x).softmax(1)

    def step(self) -> None:
        self.keep(self.statistics(self.x, self.responsibilities(self.x)))

    @property
    @abstractmethod
    def parameters_of_components(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights (K,), the means (K, C) and the covariances (K, C, C)."""

    def estimates(self) -> Numbers:
        """The weights and means of the components, the heaviest first."""
        weights, means, _ = self.parameters_of_components
        order = weights.argsort(descending=True)
        return {
            **{f"estimate/weight_{i + 1}": float(weights[k]) for i, k in enumerate(order)},
            **{
                f"estimate/mean_{i + 1}_{c + 1}": float(v)
                for i, k in enumerate(order)
                for c, v in enumerate(means[k])
            },
        }

    def errors(self, truth: Mapping[str, Tensor]) -> Numbers:
        """The largest error of a mean, in the best order, and the share of points assigned rightly."""
        if len(truth["mu"]) != self.num_components:
            return {}
        distances = torch.cdist(truth["mu"], self.parameters_of_components[1])
        order = matched(distances)
        same = order[truth["z"]] == self.responsibilities(self.x).argmax(1)
        return {
            "error/mean": float(distances.gather(1, order[:, None]).max()),
            "error/assigned_rightly": float(same.double().mean()),
        }


class EMMixture(GaussianMixture):
    """Maximum likelihood by expectation maximisation. The bound `elbo` is the log-likelihood.

    Dempster et al. 1977; Bishop 2006, section 9.2.2.
    """

    @property
    def parameters_of_components(self) -> tuple[Tensor, Tensor, Tensor]:
        means = self.sx / self.n[:, None]
        covariances = self.sxx / self.n[:, None, None] - means[:, :, None] * means[:, None]
        return self.n / self.n.sum(), means, covariances + self.least * torch.eye(self.dimensions)

    def log_joint(self, x: Tensor) -> Tensor:
        weights, means, covariances = self.parameters_of_components
        return weights.log() + MultivariateNormal(means, covariances).log_prob(x[:, None])

    def elbo(self) -> Tensor:
        """The log-likelihood of all points, in nats, ()."""
        return self.log_joint(self.x).logsumexp(1).sum()


class CAVIMixture(GaussianMixture):
    r"""Coordinate ascent on q(z) q(pi, mu, Lambda) (Bishop 2006, eq. 10.46 to 10.63).

    The prior of a component is a Normal-Wishart around the mean and the covariance of the data, with
    $W_0^{-1} = \nu_0 \mathrm{Cov}(x)$.

    Args:
        num_components: K.
        alpha: $\alpha_0$ of each component.
        beta: $\beta_0$.
        nu: $\nu_0$, at least C; None for C.
        tolerance: see `Inference`.
        columns: C.
    """

    def __init__(
        self,
        num_components: Size = 3,
        alpha: Positive = 1.0,
        beta: Positive = 0.01,
        nu: Positive | None = None,
        tolerance: NonNegativeFloat = 1e-8,
        columns: Size = 2,
    ) -> None:
        super().__init__(num_components, tolerance, columns)
        self.alpha, self.beta, self.nu = alpha, beta, float(columns) if nu is None else nu
        if self.nu <= columns - 1:
            raise UserError(f"nu={nu} must be greater than the number of columns less one, {columns - 1}")

    def set_data(self, batches: Iterable[Tensor]) -> None:
        super().set_data(batches)
        self.m0 = self.x.mean(0)
        covariance = torch.atleast_2d(self.x.T.cov()) + self.least * torch.eye(self.dimensions)
        self.w0_inverse = self.nu * covariance

    def q(self) -> Posterior:
        """q(pi, mu, Lambda) given the statistics."""
        beta, nu = self.beta + self.n, self.nu + self.n
        m = (self.beta * self.m0 + self.sx) / beta[:, None]
        inverse = self.w0_inverse + self.beta * self.m0[:, None] * self.m0 + self.sxx
        inverse = inverse - beta[:, None, None] * m[:, :, None] * m[:, None]
        return Posterior(self.alpha + self.n, beta, m, torch.linalg.inv(inverse), nu)

    def log_joint(self, x: Tensor) -> Tensor:
        q, c = self.q(), self.dimensions
        orders = torch.arange(c, dtype=torch.float64)
        log_det = (
            ((q.nu[:, None] - orders) / 2).digamma().sum(1) + c * log(2) + torch.logdet(q.w)
        )  # eq. 10.65
        log_pi = q.alpha.digamma() - q.alpha.sum().digamma()  # eq. 10.66
        apart = x[:, None] - q.m
        squares = c / q.beta + q.nu * torch.einsum("nki,kij,nkj->nk", apart, q.w, apart)  # eq. 10.64
        return log_pi + 0.5 * (log_det - c * log(2 * pi) - squares)

    def elbo(self) -> Tensor:
        r"""$\sum_n \log \sum_k \rho_{nk} - KL(q(\pi) \| p) - \sum_k KL(q(\mu_k, \Lambda_k) \| p)$, in nats, ()."""
        q, c = self.q(), self.dimensions
        prior = torch.full_like(q.alpha, self.alpha)
        kl = kl_divergence(Dirichlet(q.alpha), Dirichlet(prior))
        kl = kl + wishart_kl(q.nu, q.w, torch.tensor(self.nu).double(), self.w0_inverse).sum()
        ratio, apart = self.beta / q.beta, q.m - self.m0
        squares = self.beta * q.nu * torch.einsum("ki,kij,kj->k", apart, q.w, apart)
        kl = kl + 0.5 * (c * (ratio - 1 - ratio.log()) + squares).sum()
        return self.log_joint(self.x).logsumexp(1).sum() - kl

    @property
    def parameters_of_components(self) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q()
        return q.alpha / q.alpha.sum(), q.m, torch.linalg.inv(q.nu[:, None, None] * q.w)


def wishart_kl(nu: Tensor, w: Tensor, nu0: Tensor, w0_inverse: Tensor) -> Tensor:
    r"""KL(W(w, nu) || W(w0, nu0)) of C x C matrices, (K,), in closed form.

    $\frac{\nu_0}{2} (\log|W_0| - \log|W|) + \frac\nu2 (\mathrm{tr}(W_0^{-1} W) - C) + \log \Gamma_C(\nu_0 / 2)
    - \log \Gamma_C(\nu / 2) + \frac{\nu - \nu_0}{2} \psi_C(\nu / 2)$
    """
    c = w.shape[-1]
    product = w0_inverse @ w
    traces = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    psi = ((nu[:, None] - torch.arange(c, dtype=torch.float64)) / 2).digamma().sum(1)
    return (
        0.5 * (nu * (traces - c) - nu0 * torch.logdet(product) + (nu - nu0) * psi)
        + torch.special.multigammaln(nu0 / 2, c)
        - torch.special.multigammaln(nu / 2, c)
    )


class SVIMixture(CAVIMixture):
    r"""Natural-gradient steps from batches of points (Hoffman et al. 2013). An iteration is a pass over all.

    The statistics move to those of a batch times N / B by $\rho_t = (t + \tau)^{-\kappa}$, t = 1, 2, ...

    Args:
        num_components: K.
        alpha: $\alpha_0$ of each component.
        beta: $\beta_0$.
        nu: $\nu_0$, at least C; None for C.
        tolerance: see `Inference`.
        columns: C.
        batch_size: B.
        delay: $\tau$.
        forgetting: $\kappa$, in (0.5, 1].
    """

    count: Tensor

    def __init__(
        self,
        num_components: Size = 3,
        alpha: Positive = 1.0,
        beta: Positive = 0.01,
        nu: Positive | None = None,
        tolerance: NonNegativeFloat = 1e-8,
        columns: Size = 2,
        batch_size: PositiveInt = 100,
        delay: NonNegativeFloat = 1.0,
        forgetting: Annotated[float, Field(gt=0.5, le=1)] = 0.7,
    ) -> None:
        super().__init__(num_components, alpha, beta, nu, tolerance, columns)
        self.batch_size, self.delay, self.forgetting = batch_size, delay, forgetting
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def step(self) -> None:
        for rows in torch.randperm(len(self.x)).split(self.batch_size):
            x = self.x[rows]
            self.count += 1
            rate = forgetting_rate(self.count, self.delay, self.forgetting)
            found = self.statistics(x, self.responsibilities(x))
            for buffer, value in zip((self.n, self.sx, self.sxx), found, strict=True):
                buffer.lerp_(len(self.x) / len(rows) * value, rate)
