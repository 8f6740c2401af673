"""Bounds on the memory that a model and its data take while they are built."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf, isfinite, prod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentlab.errors import UserError

# A model makes each of its numbers once, in two or three operations for each tensor. Simulated data are small.
TIMES, NUMBERS = 2, 10_000_000
OPERATIONS_PER_TENSOR, OPERATIONS = 50, 5_000


class Bounded(TorchDispatchMode):
    """Raises an error before tensors are made that exceed a limit.

    Args:
        error: the error.
        numbers: the largest number of numbers in all tensors.
        operations: the largest number of operations.
    """

    def __init__(self, error: UserError, numbers: int, operations: float = inf) -> None:
        super().__init__()
        self.error = error
        self.numbers = numbers
        self.operations = operations

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations -= 1
        if not any(isinstance(each, Tensor) for each in args):
            self.numbers -= _size(args)
        if self.numbers < 0 or self.operations < 0:
            raise self.error
        return function(*args, **(kwargs or {}))


def _size(args: Iterable[Any]) -> int:
    # The shape of zeros, or the length of arange. A value to fill a tensor with counts too, but is small.
    shapes = [prod(each) for each in args if isinstance(each, list | tuple)]
    lengths = [int(each) for each in args if isinstance(each, int | float) and isfinite(each)]
    return max(shapes or lengths, default=0)


@contextmanager
def bounded(where: str, weights: Mapping[str, Any] = {}) -> Iterator[None]:
    """Refuse a model that is larger than its weights, or large simulated data, while they are built inside.

    Args:
        where: the part of the config.
        weights: the weights of the model.

    Raises:
        UserError: if it is.
    """
    numbers = sum(each.numel() for each in weights.values() if isinstance(each, Tensor))
    error = UserError(f"{where}: this config describes far more numbers than the run has in its checkpoint")
    with Bounded(error, TIMES * numbers + NUMBERS, OPERATIONS_PER_TENSOR * len(weights) + OPERATIONS):
        yield
