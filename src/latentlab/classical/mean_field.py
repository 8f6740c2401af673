r"""A correlated Gaussian p approximated by a factorised Gaussian q, under both Kullback-Leibler divergences."""

from collections.abc import Iterable

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from latentlab.classical.base import Inference, Numbers, state
from latentlab.classical.checks import check_positive
from latentlab.errors import UserError


def kl_normals(m: Tensor, cov: Tensor, mean: Tensor, target: Tensor) -> Tensor:
    r"""$\mathrm{KL}(N(m, S) \| N(\mu, \Sigma)) = \frac12 (\mathrm{tr}\,\Sigma^{-1} S + (m-\mu)^\top \Sigma^{-1} (m-\mu)
    - D + \log\frac{|\Sigma|}{|S|})$, ().
    """
    both = torch.cat([cov, (m - mean)[:, None]], dim=1)
    solved = torch.linalg.solve(target, both)
    squares = solved[:, :-1].trace() + (m - mean) @ solved[:, -1]
    return 0.5 * (squares - len(m) + target.logdet() - cov.logdet())


class MeanFieldGaussian(Inference):
    r"""Coordinate ascent on $-\mathrm{KL}(q \| p)$, and the marginals that minimise $\mathrm{KL}(p \| q)$.

    $p = N(\mu, \Sigma)$ with $\Sigma_{ii} = s^2$ and equal correlations; $q = \prod_i N(m_i, v_i)$. With
    $\Lambda = \Sigma^{-1}$: $m_i = \mu_i - \Lambda_{ii}^{-1} \sum_{j \ne i} \Lambda_{ij} (m_j - \mu_j)$,
    $v_i = \Lambda_{ii}^{-1}$ (Bishop 2006, section 10.1.2): too narrow by $v_i / \Sigma_{ii} = 1 - R_i^2$, which is
    $1 - \rho^2$ in two dimensions.

    Args:
        dimension: the number D of variables, at least 2.
        correlation: their correlation, in (-1 / (D - 1), 1).
        scale: their standard deviation s.
        offset: where the coordinate ascent starts, in standard deviations from the mean.
        tolerance: see `Inference`.

    Raises:
        UserError: for a correlation that no D variables can have, or a dimension or scale out of range.
    """

    m: Tensor
    v: Tensor

    def __init__(
        self,
        dimension: PositiveInt = 2,
        correlation: float = 0.9,
        scale: PositiveFloat = 1.0,
        offset: float = 2.0,
        tolerance: NonNegativeFloat = 1e-14,
    ) -> None:
        super().__init__(tolerance)
        check_positive(scale=scale)
        if dimension < 2:
            raise UserError(f"dimension={dimension}: correlated variables are 2 at least")
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
        """Nothing: the target is given."""

    def start(self) -> None:
        """Start away from the mean, alternately above and below, with the marginals' variances."""
        signs = 1 - 2 * (torch.arange(len(self.m)) % 2)
        self.m.copy_(self.mean + self.offset * self.scale * signs * torch.linspace(1, 0.5, len(self.m)))
        self.v.copy_(self.cov.diagonal())

    def step(self) -> None:
        """Update each coordinate in turn."""
        for i in range(len(self.m)):
            others = self.precision[i] @ (self.m - self.mean) - self.precision[i, i] * (
                self.m[i] - self.mean[i]
            )
            self.m[i] = self.mean[i] - others / self.precision[i, i]
            self.v[i] = 1 / self.precision[i, i]

    def elbo(self) -> Tensor:
        """-KL(q || p) in nats: p is normalised, so that its log evidence is 0, ()."""
        return -kl_normals(self.m, self.v.diag(), self.mean, self.cov)

    def monitors(self) -> dict[str, Tensor]:
        """The ELBO and the first two means."""
        return {"elbo": self.elbo(), "m_1": self.m[0], "m_2": self.m[1]}

    def divergences(self) -> dict[str, float]:
        """Both divergences of q and of the product of p's marginals."""
        approximations = {"q": (self.m, self.v.diag()), "marginals": (self.mean, self.cov.diagonal().diag())}
        found: dict[str, float] = {}
        for name, (m, cov) in approximations.items():
            found[f"kl_q_p_{name}"] = float(kl_normals(m, cov, self.mean, self.cov))
            found[f"kl_p_q_{name}"] = float(kl_normals(self.mean, self.cov, m, cov))
        return found

    def estimates(self) -> Numbers:
        """Both divergences of both approximations, and q's variance beside the marginal one."""
        found = {f"estimate/{name}": value for name, value in self.divergences().items()}
        ratio = float(self.v[0] / self.cov[0, 0])
        return {**found, "estimate/variance_ratio": ratio, "exact/variance_ratio": self.variance_factor()}

    def variance_factor(self) -> float:
        r"""$1 - R^2$ for equal correlations, $\frac{(1 - \rho)(1 + (D - 1)\rho)}{1 + (D - 2)\rho}$."""
        rho, d = self.correlation, len(self.m)
        return (1 - rho) * (1 + (d - 1) * rho) / (1 + (d - 2) * rho)
