"""What coordinate ascent and black-box inference of the Normal-Gamma model share."""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from latentlab.classical.base import Inference, Numbers
from latentlab.classical.checks import check_positive
from latentlab.classical.conjugate import Moments, NormalGamma, Statistics, elbo
from latentlab.errors import UserError


class NormalGammaInference(Inference):
    r"""A factorised $q(\mu)\,q(\tau) = N(m, l^{-1})\,\mathrm{Gamma}(a, b)$ for the model of `conjugate`, abstract.

    Args:
        mu0: the prior mean of mu.
        lambda0: the prior precision of mu in units of tau, positive.
        a0: the prior shape of tau, positive.
        b0: the prior rate of tau, positive.
        tolerance: see `Inference`.
        window: see `Inference`.

    Raises:
        UserError: for hyperparameters that are not positive.
    """

    def __init__(
        self,
        mu0: float,
        lambda0: PositiveFloat,
        a0: PositiveFloat,
        b0: PositiveFloat,
        tolerance: NonNegativeFloat,
        window: PositiveInt,
    ) -> None:
        super().__init__(tolerance, window)
        check_positive(lambda0=lambda0, a0=a0, b0=b0)
        self.prior = NormalGamma(*torch.tensor([mu0, lambda0, a0, b0], dtype=torch.float64))

    @abstractmethod
    def q(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameters m, l, a, b of q, each ()."""

    def set_data(self, batches: Iterable[Tensor]) -> None:
        """Take in the observations, (N, 1)."""
        x = torch.cat([batch.double().flatten() for batch in batches])
        if not x.isfinite().all():
            raise UserError("the observations are not all finite")
        self.data = Statistics.of(x.cpu())

    def elbo(self) -> Tensor:
        """The ELBO in closed form, in nats for the data set, ()."""
        return elbo(self.prior, self.data, *self.q())

    def moments(self) -> Moments:
        """The means and variances of q."""
        m, precision, a, b = self.q()
        return Moments(m, 1 / precision, a / b, a / b**2)

    def exact(self) -> NormalGamma:
        """The exact posterior."""
        return self.prior.posterior(self.data)

    def monitors(self) -> dict[str, Tensor]:
        """The ELBO, E[mu] and E[tau]."""
        moments = self.moments()
        return {"elbo": self.elbo(), "mean_mu": moments.mean_mu, "mean_tau": moments.mean_tau}

    def estimates(self) -> Numbers:
        """The moments of q with those of the exact posterior that exist, and the log evidence that bounds the ELBO."""
        found = {f"estimate/{name}": float(value) for name, value in vars(self.moments()).items()}
        moments = vars(self.exact().moments()).items()
        exact = {f"exact/{name}": float(value) for name, value in moments if value.isfinite()}
        return {**found, **exact, "exact/log_evidence": float(self.prior.log_evidence(self.data))}
