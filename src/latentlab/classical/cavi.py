"""Coordinate ascent (CAVI) for the Normal-Gamma model."""

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from latentlab.classical.base import state
from latentlab.classical.conjugate import expected_squares
from latentlab.classical.normal_gamma import NormalGammaInference


class CAVINormalGamma(NormalGammaInference):
    r"""Coordinate ascent on $q(\mu)\,q(\tau)$ (Bishop 2006, eq. 10.26-10.30).

    $m = \frac{\lambda_0 \mu_0 + N \bar x}{\lambda_0 + N}$, $l = (\lambda_0 + N) \frac ab$, $a = a_0 + \frac{N + 1}{2}$,
    $b = b_0 + \frac12 (E \sum_i (x_i - \mu)^2 + \lambda_0 E(\mu - \mu_0)^2)$.
    The shape has (N + 1) / 2, not N / 2: $p(\mu | \tau)$ brings a $\tau^{1/2}$ too. At the fixed point $E_q[\mu]$ and
    $E_q[\tau]$ are exact; both variances are too small.

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
        mu0: float = 1.0,
        lambda0: PositiveFloat = 0.1,
        a0: PositiveFloat = 1.0,
        b0: PositiveFloat = 2.0,
        tolerance: NonNegativeFloat = 1e-14,
        window: PositiveInt = 1,
    ) -> None:
        super().__init__(mu0, lambda0, a0, b0, tolerance, window)
        for name in ("m", "precision", "a", "b"):
            self.register_buffer(name, state())

    def q(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameters m, l, a, b of q, each ()."""
        return self.m, self.precision, self.a, self.b

    def start(self) -> None:
        """Start from the prior."""
        self.m.copy_(self.prior.mu0)
        self.precision.copy_(self.prior.lambda0 * self.prior.a0 / self.prior.b0)
        self.a.copy_(self.prior.a0)
        self.b.copy_(self.prior.b0)

    def step(self) -> None:
        """Update q(mu), then q(tau)."""
        self.update_mu()
        self.update_tau()

    def update_mu(self) -> None:
        """The optimal q(mu) given q(tau)."""
        precision = self.prior.lambda0 + self.data.n
        self.m.copy_((self.prior.lambda0 * self.prior.mu0 + self.data.n * self.data.mean) / precision)
        self.precision.copy_(precision * self.a / self.b)

    def update_tau(self) -> None:
        """The optimal q(tau) given q(mu)."""
        deviation = self.prior.lambda0 * ((self.m - self.prior.mu0) ** 2 + 1 / self.precision)
        self.a.copy_(self.prior.a0 + (self.data.n + 1) / 2)
        self.b.copy_(self.prior.b0 + 0.5 * (expected_squares(self.data, self.m, self.precision) + deviation))
