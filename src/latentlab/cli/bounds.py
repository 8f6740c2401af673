"""Bounds on the memory that a model and its data take while they are built."""

from collections.abc import Iterable
from math import inf, isfinite, prod
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentlab.errors import UserError

# A part of a saved config may make as many numbers in any case, such as simulated data, in as many operations. A model
# takes two or three operations for each of its tensors.
NUMBERS, OPERATIONS = 10_000_000, 100_000


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


def within_checkpoint(where: str, ckpt_path: str | Path) -> Bounded:
    """Return the context in which a part of a saved config is built, and refused if it outgrows its checkpoint.

    The config may come from somebody else. A checkpoint is at least as large as the weights of its model.

    Args:
        where: the part.
        ckpt_path: the checkpoint.

    Raises:
        UserError: in the context.
    """
    error = UserError(
        f"{where}: this config describes far more numbers than its checkpoint {ckpt_path} holds"
    )
    return Bounded(error, Path(ckpt_path).stat().st_size + NUMBERS, OPERATIONS)
