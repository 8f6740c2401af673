"""Checks of what a user gives to a classical model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentlab.errors import UserError


def check_positive(**values: float) -> None:
    """Refuse numbers that are not positive, by the name of the argument.

    Raises:
        UserError: for the first of them.
    """
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{name}={value} must be greater than 0")


def mixture_weights(weights: Sequence[float] | None, size: int) -> Tensor:
    """The probabilities of `size` components, (K,), equal for None.

    Raises:
        UserError: when they are not `size` positive numbers that sum to one.
    """
    if weights is None:
        return torch.full((size,), 1 / size, dtype=torch.float64)
    pi = torch.tensor(list(weights), dtype=torch.float64)
    if len(pi) != size or not (pi > 0).all() or abs(float(pi.sum()) - 1) > 1e-6:
        raise UserError(f"weights={list(weights)} must be {size} positive numbers that sum to 1")
    return pi / pi.sum()
