"""A rehearsal of one training step on two examples: the names of its metrics, and its memory."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

# The peak of a step is 1.2 to 2.9 times the tensors that it saves for the backward pass, measured for a VAE, IWAE,
# VIMCO, hierarchies and diffusions.
PEAK = 2.0


@dataclass(frozen=True)
class Cost:
    """The bytes of a step, without the weights.

    Attributes:
        fixed: the bytes of no example.
        example: the bytes of each example.
        draw: the bytes of each draw of each example.
    """

    fixed: float
    example: float
    draw: float

    def __call__(self, examples: int, draws: int) -> float:
        """Return the bytes of a step."""
        return self.fixed + examples * (self.example + draws * self.draw)


@dataclass(frozen=True)
class Rehearsal:
    """The results of a rehearsal.

    Attributes:
        metrics: the names of the metrics that the run will log.
        cost: the memory of a step, None if it is not known.
        draws: the number of draws of each example in a training step.
        bound: the bound before training.
    """

    metrics: frozenset[str]
    cost: Cost | None = None
    draws: int = 1
    bound: float = 0.0


def measure(score: Callable[[int, int], Any], own: Iterable[Tensor], draws: int) -> Cost:
    """Measure the cost of a score with gradients.

    Args:
        score: returns the score of a number of examples with a number of draws.
        own: the tensors that are not counted, the weights.
        draws: the largest number of draws that the run will use.
    """
    ignored = {tensor.untyped_storage().data_ptr() for tensor in own}
    least = min(draws, 2)  # some objectives need two
    one, two = (saved_bytes(lambda: score(n, least), ignored) for n in (1, 2))  # noqa: B023
    more = saved_bytes(lambda: score(1, least + 1), ignored) if draws > least else one
    draw = max(more - one, 0)
    example = max(two - one - least * draw, 0)
    return Cost(PEAK * max(2 * one - two, 0), PEAK * example, PEAK * draw)


def saved_bytes(score: Callable[[], Any], ignored: set[int]) -> int:
    """Return the bytes of the storages that a score saves for its backward pass, without the `ignored` addresses."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng([]), saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = score()  # its graph holds the tensors, so that no address is used twice
    del alive
    return sum(size for address, size in sizes.items() if address not in ignored)
