r"""A correlated Gaussian p and its factorised approximations under both Kullback-Leibler divergences."""

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from latentlab.classical.base import Inference, Numbers, Positive, Real, check_positive, state
from latentlab.errors import UserError


class MeanFieldGaussian(Inference):
    r"""Coordinate ascent on $-\mathrm{KL}(q \| p)$, and the marginals that minimise $\mathrm{KL}(p \| q)$.

    $p = N(\mu, \Sigma)$ with $\Sigma_{ii} = s^2$ and equal correlations; $q = \prod_i N(m_i, v_i)$. With
    $\Lambda = \Sigma^{-1}$: $m_i = \mu_i - \Lambda_{ii}^{-1} \sum_{j \ne i} \Lambda_{ij} (m_j - \mu_j)$,
    $v_i = \Lambda_{ii}^{-1}$ (Bishop 2006, section 10.1.2). The variance is too small by the factor
    $v_i / \Sigma_{ii} = 1 - R_i^2$, which is $1 - \rho^2$ in two dimensions.

    Args:
        dimension: the number D of variables, at least 2.
        correlation: their correlation, in (-1 / (D - 1), 1).
        scale: their standard deviation s.
        offset: the distance of the start from the mean, in standard deviations.
        tolerance: see `Inference`.

    Raises:
        UserError: for a correlation that no D variables can have, or a dimension or scale out of range.
    """

    m: Tensor
    v: Tensor

    def __init__(
        self,
        dimension: Annotated[int, Field(ge=2, le=1000)] = 2,
        correlation: float = 0.9,
        scale: Positive = 1.0,
        offset: Real = 2.0,
        tolerance: NonNegativeFloat = 1e-14,
    ) -> None:
        super().__init__(tolerance)
        check_positive(scale=scale)
        if dimension < 2:
            raise UserError(f"dimension={dimension}: a correlation needs at least 2 variables")
        if not -1 / (dimension - 1) < correlation < 1:
            raise UserError(
                f"correlation={correlation}: {dimension} equally correlated variables need one in "
                f"({-1 / (dimension - 1):.4g}, 1)"
            )
        ones = torch.ones(dimension, dimension, dtype=torch.float64)
        unit = correlation * ones + (1 - correlation) * torch.eye(dimension, dtype=torch.float64)
        self.correlation = correlation
        self.scale = scale
        self.offset = offset
        self.cov = scale**2 * unit
        self.mean = torch.zeros(dimension, dtype=torch.float64)
        self.precision = torch.linalg.inv(self.cov)
        self.register_buffer("m", state(dimension))
        self.register_buffer("v", state(dimension))

    def set_data(self, batches: Iterable[Tensor]) -> None:
        """Keep nothing: the target is given."""

    def start(self) -> None:
        """Start alternately above and below the mean, with the variances of the marginals."""
        signs = 1 - 2 * (torch.arange(len(self.m)) % 2)
        self.m.copy_(self.mean + self.offset * self.scale * signs * torch.linspace(1, 0.5, len(self.m)))
        self.v.copy_(self.cov.diagonal())

    def step(self) -> None:
        """Update each coordinate in turn."""
        for i, precision in enumerate(self.precision.diagonal()):
            others = self.precision[i] @ (self.m - self.mean) - precision * (self.m[i] - self.mean[i])
            self.m[i] = self.mean[i] - others / precision
            self.v[i] = 1 / precision

    def p(self) -> MultivariateNormal:
        """The target."""
        return MultivariateNormal(self.mean, self.cov)

    def q(self) -> MultivariateNormal:
        """The factorised approximation."""
        return MultivariateNormal(self.m, self.v.diag())

    def marginals(self) -> MultivariateNormal:
        """The product of the marginals of p."""
        return MultivariateNormal(self.mean, self.cov.diagonal().diag())

    def elbo(self) -> Tensor:
        """-KL(q || p) in nats, (). The log evidence is 0, because p is normalised."""
        return -kl_divergence(self.q(), self.p())

    def monitors(self) -> dict[str, Tensor]:
        return {"elbo": self.elbo(), "m_1": self.m[0], "m_2": self.m[1]}

    def divergences(self) -> dict[str, float]:
        """KL(q || p) and KL(p || q) of q and of the product of the marginals."""
        p, found = self.p(), {}
        for name, q in {"q": self.q(), "marginals": self.marginals()}.items():
            found[f"kl_q_p_{name}"] = float(kl_divergence(q, p))
            found[f"kl_p_q_{name}"] = float(kl_divergence(p, q))
        return found

    def estimates(self) -> Numbers:
        """Both divergences of both approximations, and the ratio of q's variance to the marginal variance."""
        found = {f"estimate/{name}": value for name, value in self.divergences().items()}
        ratio = float(self.v[0] / self.cov[0, 0])
        return {**found, "estimate/variance_ratio": ratio, "exact/variance_ratio": self.variance_factor()}

    def variance_factor(self) -> float:
        r"""$1 - R^2$ for equal correlations, $\frac{(1 - \rho)(1 + (D - 1)\rho)}{1 + (D - 2)\rho}$."""
        rho, d = self.correlation, len(self.m)
        return (1 - rho) * (1 + (d - 1) * rho) / (1 + (d - 2) * rho)
