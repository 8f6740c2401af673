"""Bounds with score-function gradients: for latents without a path, discrete ones above all."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from latentlab.gradients import frozen, leave_one_out, with_value
from latentlab.objectives.base import TraceObjective
from latentlab.objectives.importance import log_mean_exp
from latentlab.trace import Trace, Traced


def scored_at_fixed_draws(model: Traced, x: Any, samples: int) -> Trace:
    """The trace of exact draws of the latents, which carry no path."""
    with torch.no_grad():
        # Frozen, so that autocast keeps no half-precision copies of live weights that were made without gradients
        # (releases of torch before the one tested here did, and used them below).
        zs = frozen(model)(x, samples=samples).z
    return model(x, samples=samples, zs=zs)


@dataclass(frozen=True)
class ScoreFunction(TraceObjective):
    r"""The evidence lower bound with the score-function gradient (REINFORCE) and a leave-one-out baseline.

    $\frac{1}{K}\sum_k (\log w_k - \frac{1}{K-1}\sum_{j \neq k} \log w_j) \nabla_\phi \log q(z_k|x)
    + \nabla_\theta \log p(x, z_k)$ (Ranganath et al. 2014, eq. 3; Kool et al. 2019, eq. 8).

    Attributes:
        samples: the number K of draws per example, at least 2.
    """

    samples: Annotated[int, Field(ge=2)] = 2
    pathwise = False
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        trace = scored_at_fixed_draws(model, x, self.samples)
        log_w = trace.log_w.detach()
        signal = log_w - leave_one_out(log_w)  # (K, B)
        surrogate = signal * trace.log_qz_x + trace.log_px_z + trace.log_pz
        return with_value(log_w, surrogate).mean(0)


@dataclass(frozen=True)
class VIMCO(TraceObjective):
    r"""The importance-weighted bound with the score-function gradient of Mnih and Rezende 2016.

    $\sum_k (\hat L - \hat L_{-k}) \nabla_\phi \log q(z_k|x) + \nabla \hat L|_z$ (eq. 8), where $\hat L_{-k}$ is the
    bound $\hat L$ with $w_k$ replaced by the geometric mean of the others (eq. 7 and 10). Memory grows with $K^2 B$.

    Attributes:
        samples: the number K of draws per example, at least 2.
    """

    samples: Annotated[int, Field(ge=2)] = 2
    bound = "iwae"
    pathwise = False
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        trace = scored_at_fixed_draws(model, x, self.samples)
        value = log_mean_exp(trace.log_w)
        signal = (value - bounds_without_each(trace.log_w)).detach()  # (K, B)
        return with_value(value, value + (signal * trace.log_qz_x).sum(0))


def bounds_without_each(log_w: Tensor) -> Tensor:
    r"""The bounds $\hat L_{-k}$: with $\log w_k$ replaced by the mean of the others, for log weights and all (K, B)."""
    own = torch.eye(len(log_w), dtype=torch.bool, device=log_w.device)[..., None]  # (K, K, 1)
    return log_mean_exp(torch.where(own, leave_one_out(log_w), log_w[:, None]))
