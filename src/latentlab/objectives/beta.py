"""The ELBO trained with a weight on the KL."""

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from latentlab.gradients import with_value
from latentlab.objectives.base import Clock, TraceObjective
from latentlab.trace import Traced


@dataclass(frozen=True)
class BetaELBO(TraceObjective):
    r"""The ELBO, with the gradient of $E_q[\log p(x|z)] - \beta \sum_l \max(\lambda, \overline{KL}_l)$.

    Higgins et al. 2017, eq. 4. The value is the unweighted ELBO, whatever the weight. beta rises linearly from 0 in a
    warm-up (Sønderby et al. 2016, section 2.4), once or in cycles (Fu et al. 2019, eq. 6). Free bits $\lambda$ (Kingma
    et al. 2016, eq. 15) bound the KL of a layer, averaged over the batch of a device, from below: beneath it the layer
    is not pulled to its prior.

    Called as it is, the weight is `beta`; `at` gives the objective with the weight of a time.

    Attributes:
        samples: the number K of draws per example.
        beta: the weight on the KL after the warm-up.
        warmup_epochs: the length of the warm-up in epochs, to which `warmup_steps` are added.
        warmup_steps: the length of the warm-up in steps of the optimiser.
        cycle_epochs: the number of epochs after which the warm-up starts again, never if None.
        free_bits: lambda, in nats per layer; 0 for none.
    """

    beta: NonNegativeFloat = 1.0
    warmup_epochs: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 0
    cycle_epochs: PositiveFloat | None = None
    free_bits: NonNegativeFloat = 0.0

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        trace = model(x, samples=self.samples)
        terms = trace.terms()
        kls = [terms[f"kl_{level}"] for level in range(1, len(trace.layers) + 1)]  # L times (B,)
        charged = torch.stack([self._floored(kl) for kl in kls]).sum(0)
        return with_value(terms["elbo"], terms["reconstruction"] - self.beta * charged)

    def at(self, clock: Clock) -> "BetaELBO":
        """The objective with the weight of a time."""
        return replace(self, beta=self.beta * self._warmth(clock))

    def _warmth(self, clock: Clock) -> float:
        warmup = self.warmup_steps + self.warmup_epochs * clock.steps_per_epoch
        cycle = inf if self.cycle_epochs is None else self.cycle_epochs * clock.steps_per_epoch
        return min(1.0, clock.step % cycle / warmup) if warmup else 1.0

    def _floored(self, kl: Tensor) -> Tensor:
        # Without free bits no floor at 0: the estimate of a KL may be negative, and is unbiased so.
        return kl.mean().clamp(min=self.free_bits).expand_as(kl) if self.free_bits else kl
