"""What every classical inference offers: a state in float64 buffers, a step, and a bound that is followed."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from latentlab.classical.sources import Source
from latentlab.errors import UserError
from latentlab.protocols import Protocol

Numbers = dict[str, float]


class History(nn.Module):
    """Named numbers by iteration, kept in the module's state, so that a resumed run has its beginning too.

    Attributes:
        values: for each name one number an iteration, the start first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[float]] = {}

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), []))

    def record(self, numbers: Mapping[str, Tensor]) -> None:
        """Append one number to each name; the names are the same every time."""
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(float(value))

    def get_extra_state(self) -> dict[str, Tensor]:
        """The numbers as float64 tensors (iterations,)."""
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in self.values.items()}

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the numbers."""
        self.values = {name: values.tolist() for name, values in state.items()}


class Inference(nn.Module, ABC):
    r"""An iterative inference, whose state is its float64 buffers.

    It has converged once $|\bar L_t - \bar L_{t-1}| \le \mathrm{tolerance} \cdot \max(1, |\bar L_{t-1}|)$ for every
    bound followed (each name that starts with `elbo`), with $\bar L_t$ the mean over the t-th `window` iterations.

    Args:
        tolerance: the relative change of the bound that counts as convergence.
        window: the number of iterations over which a noisy bound is averaged.

    Attributes:
        columns: how many numbers one observation has.
    """

    columns: ClassVar[int] = 1

    def __init__(self, tolerance: NonNegativeFloat, window: PositiveInt = 1) -> None:
        super().__init__()
        self.tolerance = tolerance
        self.window = window
        self.history = History()
        self.observed = False

    def check(self, protocol: Protocol | Source) -> None:
        """Refuse data of another kind.

        Raises:
            UserError: with what is needed.
        """
        if not isinstance(protocol, Source) or protocol.x.shape[1] != self.columns:
            raise UserError(
                f"{type(self).__name__} needs observations of {self.columns} column(s), not {protocol.name} data: "
                "leave data=... out for those that come with the model"
            )

    @abstractmethod
    def set_data(self, batches: Iterable[Tensor]) -> None:
        """Take in the whole data set; UserError where it does not fit."""

    @abstractmethod
    def start(self) -> None:
        """Set the state to its start."""

    @abstractmethod
    def step(self) -> None:
        """One iteration."""

    @abstractmethod
    def elbo(self) -> Tensor:
        """The bound at the current state, in nats, ()."""

    @abstractmethod
    def estimates(self) -> Numbers:
        """What is reported at the end: `estimate/...`, with `exact/...` beside it where that is known."""

    def monitors(self) -> dict[str, Tensor]:
        """The numbers that are followed by iteration, `elbo` among them, each ()."""
        return {"elbo": self.elbo()}

    def errors(self, truth: Mapping[str, Tensor]) -> Numbers:
        """`error/...` against the parameters that the data were simulated with; none where nothing is known."""
        return {}

    @property
    def num_parameters(self) -> int:
        """How many numbers describe what is inferred: the state, unless it holds more than that."""
        return sum(buffer.numel() for buffer in self.buffers())

    @property
    def iterations(self) -> int:
        """The number of steps taken."""
        return max(len(self.history) - 1, 0)

    def begin(self, batches: Iterable[Tensor]) -> None:
        """Observe the data once, and start, unless the state was restored."""
        if not self.observed:
            self.set_data(batches)
            self.observed = True
        if len(self.history) == 0:
            self.start()
            self.history.record(self.monitors())

    def iterate(self) -> dict[str, Tensor]:
        """One step, and the numbers after it."""
        self.step()
        monitors = self.monitors()
        self.history.record(monitors)
        return monitors

    @property
    def converged(self) -> bool:
        """Whether the bounds have stopped changing."""
        bounds = [values for name, values in self.history.values.items() if name.startswith("elbo")]
        due = self.iterations >= 2 * self.window and self.iterations % self.window == 0
        return due and all(map(self._settled, bounds))

    def _settled(self, bounds: list[float]) -> bool:
        now = sum(bounds[-self.window :]) / self.window
        before = sum(bounds[-2 * self.window : -self.window]) / self.window
        return abs(now - before) <= self.tolerance * max(1.0, abs(before))


def state(*shape: int) -> Tensor:
    """A float64 tensor of zeros to register as a buffer; `start` sets it."""
    return torch.zeros(shape, dtype=torch.float64)


def run(inference: Inference, x: Tensor, iterations: int) -> Inference:
    """Start on the data x and iterate until convergence, or `iterations` times."""
    inference.begin([x])
    while inference.iterations < iterations and not inference.converged:
        inference.iterate()
    return inference
