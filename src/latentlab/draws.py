"""Random draws for blocks of examples: each block has its own seed, and one pass of a model draws for many blocks.

The draws of an example then depend on its block alone, and not on the examples that share its pass. A model draws
latents by `trace.draw` and other noise by `each_block`. Other draws are noticed (see `Blocks.bypassed`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode

# The devices whose random states can be read and set.
SEEDED = ("cpu", "cuda")
RANDOM = torch.Tag.nondeterministic_seeded


class Blocks:
    """The blocks of examples in a pass, each with its own random state. Used as a context around the pass.

    Args:
        sizes: the number of examples of each block, in the order of the pass.
        seeds: the seed of each block.
        device: the device of the pass.
    """

    def __init__(self, sizes: Sequence[int], seeds: Sequence[int], device: torch.device) -> None:
        self.rows = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        self.generators = _generators(device)
        self.states = [
            [Generator(each.device).manual_seed(seed).get_state() for each in self.generators]
            for seed in seeds
        ]
        self.outside = _states(self.generators)

    def __enter__(self) -> "Blocks":
        self.token = _active.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _active.reset(self.token)

    @property
    def examples(self) -> int:
        return self.rows[-1].stop

    @property
    def bypassed(self) -> bool:
        """True if there were draws from the random state of all blocks together."""
        return not all(map(torch.equal, self.outside, _states(self.generators)))

    def each(self, draw: Callable[[slice], Tensor], dim: int) -> Tensor:
        """Join the draws for the rows of each block along a dimension, each from the block's own random state."""
        parts = []
        for index, rows in enumerate(self.rows):
            _set_states(self.generators, self.states[index])
            parts.append(draw(rows))
            self.states[index] = _states(self.generators)
        _set_states(self.generators, self.outside)
        return torch.cat(parts, dim)


_active: ContextVar[Blocks | None] = ContextVar("blocks", default=None)


def _blocks_of(examples: int) -> Blocks | None:
    blocks = _active.get()
    return blocks if blocks is not None and blocks.examples == examples else None


def each_block(examples: int, draw: Callable[[int], Tensor], dim: int = 0) -> Tensor:
    """Draw for a number of examples, or for each block of the pass with its own random state.

    Args:
        examples: the number of examples.
        draw: draws for a number of examples.
        dim: the dimension of the examples.
    """
    blocks = _blocks_of(examples)
    return draw(examples) if blocks is None else blocks.each(lambda rows: draw(rows.stop - rows.start), dim)


def normal_like(x: Tensor) -> Tensor:
    """Draw standard normal noise for examples x (N, ...), of the same shape."""
    return each_block(len(x), lambda size: torch.randn_like(x[:size]))


def each_block_of(q: Distribution, samples: torch.Size, draw: Callable[[torch.Size], Tensor]) -> Tensor:
    """Draw from q by `draw(samples)`, for each block of the pass with its own random state.

    The last dimension of q's batch shape is that of the examples.

    Args:
        q: the distribution, batch shape (*, B).
        samples: the shape of the sample.
        draw: `q.sample` or `q.rsample`.
    """
    blocks = _blocks_of(q.batch_shape[-1]) if q.batch_shape else None
    if blocks is None:
        return draw(samples)
    with Sliced(blocks, samples, q.batch_shape):
        return draw(samples)


class Sliced(TorchDispatchMode):
    """Replaces each random operation by one for each block, while a distribution is drawn from.

    An operation whose shape does not begin with that of the draw is left alone, which `Blocks.bypassed` notices.

    Args:
        blocks: the blocks.
        samples: the shape of the sample.
        batch: the batch shape of the distribution, (*, B).
    """

    def __init__(self, blocks: Blocks, samples: Sequence[int], batch: Sequence[int]) -> None:
        super().__init__()
        self.blocks = blocks
        self.lead = (*samples, *batch)
        self.batch = tuple(batch)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if RANDOM not in function.tags:
            return function(*args, **kwargs)
        if function is torch.ops.aten.multinomial.default:
            return self._multinomial(function, *args, **kwargs)
        shapes = [_shape(value) for value in args]
        if {shape[: len(self.lead)] for shape in shapes if shape} != {self.lead}:
            return function(*args, **kwargs)
        dim = len(self.lead) - 1
        if function._schema.is_mutable:
            # A new tensor for each block, because the order in which it is filled depends on the strides.
            whole, *others = args
            return whole.copy_(
                self.blocks.each(
                    lambda rows: function(
                        torch.empty_like(self._part(whole, rows)), *self._parts(others, rows), **kwargs
                    ),
                    dim,
                )
            )
        return self.blocks.each(lambda rows: function(*self._parts(args, rows), **kwargs), dim)

    def _parts(self, values: Sequence[Any], rows: slice) -> list[Any]:
        return [self._part(value, rows) if _shape(value) else value for value in values]

    def _part(self, value: Any, rows: slice) -> Any:
        # The rows of a tensor, or the shape of a tensor of these rows.
        dim = len(self.lead) - 1
        if isinstance(value, Tensor):
            return value[(*[slice(None)] * dim, rows)]
        return [*value[:dim], rows.stop - rows.start, *value[dim + 1 :]]

    def _multinomial(self, function: Any, weights: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # The weights (N, C) are flattened from (*batch, ..., C), and the draws are (N, samples).
        if weights.ndim != 2 or len(weights) % prod(self.batch):
            return function(weights, *args, **kwargs)
        dim = len(self.batch) - 1
        whole = weights.unflatten(0, (*self.batch, -1))

        def draw(rows: slice) -> Tensor:
            part = whole[(*[slice(None)] * dim, rows)]
            drawn: Tensor = function(part.flatten(0, -2), *args, **kwargs)
            return drawn.unflatten(0, part.shape[:-1])

        return self.blocks.each(draw, dim).flatten(0, -2)


def _shape(value: Any) -> tuple[int, ...]:
    # The shape of a tensor or of a tensor to be made, () for a number.
    return tuple(
        value.shape if isinstance(value, Tensor) else value if isinstance(value, list | tuple) else ()
    )


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seed all random draws in the context, and restore the generators of the CPU and of `device` after it."""
    # Much faster than torch.manual_seed, which seeds the generators of all kinds of devices.
    generators = _generators(device)
    before = _states(generators)
    for generator in generators:
        generator.manual_seed(seed)
    if device.type not in SEEDED:
        torch.get_device_module(device).manual_seed(seed)
    try:
        yield
    finally:
        _set_states(generators, before)


def _generators(device: torch.device) -> list[Generator]:
    cuda = [torch.cuda.default_generators[_index(device)]] if device.type == "cuda" else []
    return [torch.default_generator, *cuda]


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _states(generators: Sequence[Generator]) -> list[Tensor]:
    return [generator.get_state() for generator in generators]


def _set_states(generators: Sequence[Generator], states: Sequence[Tensor]) -> None:
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
