"""Step sizes of stochastic ascent: a gradient becomes an increment."""

from abc import ABC, abstractmethod

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from latentlab.classical.base import state
from latentlab.classical.checks import check_positive
from latentlab.errors import UserError


class Steps(nn.Module, ABC):
    """A rule for the increment of `size` parameters, abstract; its state is in its buffers."""

    @abstractmethod
    def reset(self, size: int) -> None:
        """Forget all gradients, and expect `size` parameters."""

    @abstractmethod
    def increment(self, gradient: Tensor) -> Tensor:
        """The increment for a gradient of a bound to maximise, (P,) to (P,)."""


class RobbinsMonro(Steps):
    r"""Increments $g_t / (t_0 + t)^\kappa$ (Robbins and Monro 1951), t from 0.

    Args:
        offset: $t_0$.
        exponent: $\kappa$, in (0.5, 1] for convergence.

    Raises:
        UserError: for values outside.
    """

    t: Tensor

    def __init__(self, offset: PositiveFloat = 1000.0, exponent: PositiveFloat = 1.0) -> None:
        super().__init__()
        check_positive(offset=offset)
        if not 0.5 < exponent <= 1:
            raise UserError(f"exponent={exponent}: Robbins-Monro steps converge for exponents in (0.5, 1]")
        self.offset = offset
        self.exponent = exponent
        self.register_buffer("t", state())

    def reset(self, size: int) -> None:
        """Start again with t = 0."""
        self.t.zero_()

    def increment(self, gradient: Tensor) -> Tensor:
        """The gradient over a growing number, (P,) to (P,)."""
        size = (self.offset + self.t) ** -self.exponent
        self.t += 1
        return gradient * size


class Adam(Steps):
    r"""Increments $\eta\, \hat m_t / (\sqrt{\hat v_t} + \epsilon)$ (Kingma and Ba 2015, algorithm 1).

    Args:
        lr: $\eta$.
        beta1: the decay of the mean of the gradients.
        beta2: the decay of the mean of their squares.
        eps: $\epsilon$.
    """

    t: Tensor
    moments: Tensor

    def __init__(
        self,
        lr: PositiveFloat = 0.01,
        beta1: NonNegativeFloat = 0.9,
        beta2: NonNegativeFloat = 0.999,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        super().__init__()
        check_positive(lr=lr, eps=eps)
        for name, beta in {"beta1": beta1, "beta2": beta2}.items():
            if not 0 <= beta < 1:
                raise UserError(f"{name}={beta} must be in [0, 1)")
        self.lr = lr
        self.eps = eps
        self.betas = torch.tensor([[beta1], [beta2]], dtype=torch.float64)
        self.register_buffer("t", state())

    def reset(self, size: int) -> None:
        """Forget the moments."""
        self.t.zero_()
        self.register_buffer("moments", state(2, size))

    def increment(self, gradient: Tensor) -> Tensor:
        """The mean of the gradients over the root of the mean of their squares, (P,) to (P,)."""
        self.t += 1
        both = torch.stack([gradient, gradient**2])
        self.moments.copy_(self.betas * self.moments + (1 - self.betas) * both)
        mean, square = self.moments / (1 - self.betas**self.t)
        return self.lr * mean / (square.sqrt() + self.eps)
