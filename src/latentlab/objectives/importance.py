"""The importance-weighted bound, and two pathwise estimators of its gradient."""

from math import log
from typing import Any

from torch import Tensor

from latentlab.gradients import frozen, with_value
from latentlab.objectives.base import TraceObjective
from latentlab.trace import Traced


def log_mean_exp(log_w: Tensor) -> Tensor:
    r"""The importance-weighted bound of log weights (K, ...), $\log \frac{1}{K}\sum_k w_k$, (...)."""
    return log_w.logsumexp(0) - log(len(log_w))


class IWAE(TraceObjective):
    r"""The importance-weighted bound $\log \frac{1}{K}\sum_k w_k$, $z_k \sim q(z|x)$; one sample gives the ELBO.

    Burda et al. 2016, eq. 8; gradients by reparametrisation (eq. 13).
    """

    bound = "iwae"
    exact_path = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return log_mean_exp(model(x, samples=self.samples).log_w)


class DReG(TraceObjective):
    r"""The importance-weighted bound with the doubly reparametrised gradient; one sample gives `STL`.

    With normalised weights $\tilde w_k$ the gradient of the inference network is
    $\sum_k \tilde w_k^2 \nabla_z \log w_k \nabla_\phi z_k$ (Tucker et al. 2018, eq. 8), that of the model
    $\sum_k \tilde w_k \nabla_\theta \log p(x, z_k)$ at fixed z. Its signal does not fade as K grows.
    """

    bound = "iwae"
    exact_path = True
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        live = model(x, samples=self.samples)
        cold = frozen(model)(x, samples=self.samples, zs=live.z)
        weight = live.log_w.detach().softmax(0)  # (K, B)
        # The paths through z of the live and the frozen density cancel: what is left is log p(x, z) at fixed z.
        model_term = live.log_px_z + live.log_pz - cold.log_px_z - cold.log_pz
        surrogate = (weight * model_term + weight**2 * cold.log_w).sum(0)
        return with_value(log_mean_exp(live.log_w), surrogate)
