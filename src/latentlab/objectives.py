"""Bounds on log p(x), to be maximised: `objective(model, x) -> (B,)`, in nats per example.

Each is a value object with a sample count. What it returns has the value of the bound itself, whatever surrogate is
differentiated; the one place that turns a bound into a loss is `lit.BaseModule.training_step`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor

from latentlab.trace import Trace

Model = Callable[..., Trace]


@dataclass(frozen=True)
class Objective(ABC):
    """A bound on log p(x) estimated with `samples` draws of the latents per example.

    Attributes:
        samples: the number K of draws per example.
        bound: the name under which its value is logged.
    """

    samples: PositiveInt = 1
    bound: ClassVar[str] = "elbo"

    @abstractmethod
    def __call__(self, model: Model, x: Any) -> Tensor:
        """The bound for each of the B examples of `x`, (B,)."""


class ELBO(Objective):
    r"""The evidence lower bound by Monte Carlo, $\frac{1}{K}\sum_k \log w_k$, $z_k \sim q(z|x)$.

    Kingma and Welling 2014, eq. 6; gradients by reparametrisation.
    """

    def __call__(self, model: Model, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return model(x, samples=self.samples).log_w.mean(0)


class AnalyticELBO(Objective):
    r"""The evidence lower bound with every KL that has a closed form taken exactly.

    $\frac{1}{K}\sum_k \log p(x|z_k) - \sum_l KL_l$ (Kingma and Welling 2014, eq. 7), each layer's KL as in
    `trace.Layer.kl`.
    """

    def __call__(self, model: Model, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return model(x, samples=self.samples).terms()["elbo"]
