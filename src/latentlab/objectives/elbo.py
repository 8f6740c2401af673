"""The evidence lower bound, and three estimators of its gradient."""

from typing import Any

from torch import Tensor

from latentlab.gradients import frozen
from latentlab.objectives.base import TraceObjective
from latentlab.trace import Traced


class ELBO(TraceObjective):
    r"""The evidence lower bound by Monte Carlo, $\frac{1}{K}\sum_k \log w_k$, $z_k \sim q(z|x)$.

    Kingma and Welling 2014, eq. 6; gradients by reparametrisation.
    """

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return model(x, samples=self.samples).log_w.mean(0)


class AnalyticELBO(TraceObjective):
    r"""The evidence lower bound with every KL that has a closed form taken exactly.

    $\frac{1}{K}\sum_k \log p(x|z_k) - \sum_l KL_l$ (Kingma and Welling 2014, eq. 7), each layer's KL as in
    `trace.Layer.kl`.
    """

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return model(x, samples=self.samples).terms()["elbo"]


class STL(TraceObjective):
    r"""The evidence lower bound with the path derivative, "sticking the landing".

    $\nabla_\phi = E_\epsilon[\nabla_z \log w \, \nabla_\phi z]$ (Roeder et al. 2017, eq. 8): log q(z|x) is scored
    by the frozen model, so that only the path through z is left, and the gradient vanishes, draw by draw, where
    q(z|x) is the exact posterior. What it leaves out, $E_q[\nabla_\phi \log q]$, is zero.
    """

    rescores = True
    exact_path = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        live = model(x, samples=self.samples)
        cold = frozen(model)(x, samples=self.samples, zs=live.z)
        return (live.log_px_z + live.log_pz - cold.log_qz_x).mean(0)
