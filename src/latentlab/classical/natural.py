r"""Natural gradients: $\tilde\nabla = F^{-1} \nabla$ with the Fisher matrix F (Amari 1998)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jacrev

from latentlab.classical.conjugate import LOG_2PI


def natural_gradient(gradient: Tensor, fisher: Tensor) -> Tensor:
    r"""$F^{-1} g$ for g (P,) and F (P, P)."""
    return torch.linalg.solve(fisher, gradient)


def natural_step(
    bound: Callable[[Tensor], Tensor],
    log_normaliser: Callable[[Tensor], Tensor],
    eta: Tensor,
    size: float = 1.0,
) -> Tensor:
    r"""One natural-gradient step on the natural parameters eta (P,) of an exponential family, (P,).

    $\eta + \rho F^{-1} \nabla L$ with $F = \nabla^2 A(\eta)$, A the log-normaliser. With $\rho = 1$ on a conditionally
    conjugate model this is the CAVI update (Hoffman et al. 2013, eq. 23).
    """
    return eta + size * natural_gradient(grad(bound)(eta), jacrev(grad(log_normaliser))(eta))


def normal_log_normaliser(eta: Tensor) -> Tensor:
    r"""$A(\eta) = -\frac{\eta_1^2}{4 \eta_2} - \frac12 \log(-2 \eta_2) + \frac12 \log 2\pi$
    of $N(m, l^{-1})$ at $\eta = (lm, -l/2)$, ().
    """
    return -(eta[0] ** 2) / (4 * eta[1]) - 0.5 * (-2 * eta[1]).log() + 0.5 * LOG_2PI


def gamma_log_normaliser(eta: Tensor) -> Tensor:
    r"""$A(\eta) = \log\Gamma(\eta_1 + 1) - (\eta_1 + 1) \log(-\eta_2)$ of Gamma(a, b), $\eta = (a - 1, -b)$, ()."""
    return (eta[0] + 1).lgamma() - (eta[0] + 1) * (-eta[1]).log()
