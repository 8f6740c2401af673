"""Bernoulli and continuous Bernoulli pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentlab.distributions import ContinuousBernoulli, LogitBernoulli
from latentlab.likelihoods.base import PixelLikelihood


class BernoulliLikelihood(PixelLikelihood):
    r"""Independent pixels, $p(x|z) = \prod_d \mathrm{Bern}(x_d; \sigma(\eta_d(z)))$, for x in {0, 1}.

    Kingma and Welling 2014, eq. 11; the network returns the logits $\eta$.
    """

    levels = 2

    def pixels(self, parameters: Sequence[Tensor]) -> LogitBernoulli:
        return LogitBernoulli(logits=parameters[0])

    def link(self, mean: Tensor) -> Tensor:
        # Clamped to [0.001, 0.999], as in the IWAE paper's code.
        return mean.logit(eps=1e-3)


class ContinuousBernoulliLikelihood(PixelLikelihood):
    r"""Independent pixels in [0, 1], $p(x|z) = \prod_d C(\lambda_d) \lambda_d^{x_d} (1 - \lambda_d)^{1 - x_d}$.

    Loaiza-Ganem and Cunningham 2019, eq. 6 and 7; the network returns the logits of $\lambda$.
    """

    levels = None

    def pixels(self, parameters: Sequence[Tensor]) -> ContinuousBernoulli:
        return ContinuousBernoulli(parameters[0])

    def link(self, mean: Tensor) -> Tensor:
        """Solve for the logit of each mean by bisection, with means clamped to [0.01, 0.99]."""
        target = mean.clamp(1e-2, 1 - 1e-2)
        low, high = torch.full_like(mean, -200.0), torch.full_like(mean, 200.0)
        for _ in range(40):
            middle = (low + high) / 2
            smaller = ContinuousBernoulli(middle).mean < target
            low, high = torch.where(smaller, middle, low), torch.where(smaller, high, middle)
        return (low + high) / 2
