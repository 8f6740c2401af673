"""Iterative inference, the history of its numbers, and the source of its observations."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from latentlab.batch import Batch
from latentlab.errors import UserError
from latentlab.protocols import Protocol

Numbers = dict[str, float]
# Ranges in which float64 has no overflow, and a data set fits into memory.
Real = Annotated[float, Field(ge=-1e12, le=1e12)]
Positive = Annotated[float, Field(gt=1e-12, le=1e12)]
Size = Annotated[int, Field(gt=0, le=10**7)]


def check_positive(**values: float) -> None:
    """Refuse arguments that are not positive.

    Raises:
        UserError: for the first of them, by name.
    """
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{name}={value} must be greater than 0")


class Source:
    """Observations of a classical model as an iterable of one batch. They have no protocol but themselves.

    Args:
        x: the observations, float64 (N, C).
        y: the labels, int64 (N,). An observation without a label has -1.
        truth: the parameters of a simulation by name. It is empty if they are unknown.

    Attributes:
        name: the name that is recorded as the protocol.
        kind: what an observation is: numbers, or counts of words.
    """

    name: ClassVar[str] = "simulated"
    kind: ClassVar[str] = "numbers"

    def __init__(self, x: Tensor, y: Tensor | None = None, truth: dict[str, Tensor] | None = None) -> None:
        self.x = x.double()
        self.y = torch.full((len(x),), -1) if y is None else y.long()
        self.truth = truth or {}

    def __iter__(self) -> Iterator[Batch]:
        yield Batch(self.x, self.y)


class History(nn.Module):
    """Named numbers by iteration. They are part of the module's state, so a resumed run keeps them.

    Attributes:
        values: a list of numbers for each name. The first number belongs to the start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[float]] = {}

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), []))

    def record(self, numbers: Mapping[str, Tensor]) -> None:
        """Append one number to each name."""
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(float(value))

    def get_extra_state(self) -> dict[str, Tensor]:
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in self.values.items()}

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        self.values = {name: values.tolist() for name, values in state.items()}


class Inference(nn.Module, ABC):
    r"""An iterative inference. Its state is its float64 buffers.

    A bound has converged if $|\bar L_t - \bar L_{t-1}| \le \mathrm{tolerance} \cdot \max(1, |\bar L_{t-1}|)$, with
    $\bar L_t$ its mean over the t-th `window` iterations. The inference has converged if all its bounds have.

    Args:
        tolerance: the relative change of the bound that counts as convergence.
        window: the number of iterations over which a noisy bound is averaged.

    Attributes:
        columns: the number of columns of the observations.
    """

    columns: ClassVar[int] = 1

    def __init__(self, tolerance: NonNegativeFloat, window: PositiveInt = 1) -> None:
        super().__init__()
        self.tolerance = tolerance
        self.window = window
        self.history = History()
        self.has_data = False

    def check(self, protocol: Protocol | Source) -> None:
        """Refuse data of another kind.

        Raises:
            UserError: with the remedy.
        """
        if (
            not isinstance(protocol, Source)
            or protocol.kind != "numbers"
            or protocol.x.shape[1] != self.columns
        ):
            raise UserError(
                f"{type(self).__name__} needs observations of {self.columns} column(s), not {protocol.name} data: "
                "leave out data=... to use the data that come with the model"
            )

    @abstractmethod
    def set_data(self, batches: Iterable[Tensor]) -> None:
        """Keep the data set or its sufficient statistics.

        Raises:
            UserError: if the model cannot explain the data.
        """

    @abstractmethod
    def start(self) -> None:
        """Set the initial state."""

    @abstractmethod
    def step(self) -> None:
        """Run one iteration."""

    @abstractmethod
    def elbo(self) -> Tensor:
        """The bound at the current state, in nats, ()."""

    @abstractmethod
    def estimates(self) -> Numbers:
        """The results: `estimate/...`, and `exact/...` where the exact value is known."""

    def monitors(self) -> dict[str, Tensor]:
        """The numbers that are logged at each iteration, each (). A name that starts with `elbo` is a bound."""
        return {"elbo": self.elbo()}

    def errors(self, truth: Mapping[str, Tensor]) -> Numbers:
        """The errors `error/...` against the parameters of the simulation."""
        return {}

    @property
    def num_parameters(self) -> int:
        """The number of inferred parameters."""
        return sum(buffer.numel() for buffer in self.buffers())

    @property
    def iterations(self) -> int:
        return max(len(self.history) - 1, 0)

    def read(self, batches: Iterable[Tensor]) -> None:
        """Set the data once."""
        if not self.has_data:
            self.set_data(batches)
            self.has_data = True

    def begin(self, batches: Iterable[Tensor]) -> None:
        """Set the data, and start unless the state was restored from a checkpoint."""
        self.read(batches)
        if len(self.history) == 0:
            self.start()
            self.history.record(self.monitors())

    def iterate(self) -> dict[str, Tensor]:
        """Run one iteration and return its monitors."""
        self.step()
        monitors = self.monitors()
        self.history.record(monitors)
        return monitors

    @property
    def converged(self) -> bool:
        bounds = [values for name, values in self.history.values.items() if name.startswith("elbo")]
        due = self.iterations >= 2 * self.window and self.iterations % self.window == 0
        return due and all(map(self._settled, bounds))

    def _settled(self, bounds: list[float]) -> bool:
        now = sum(bounds[-self.window :]) / self.window
        before = sum(bounds[-2 * self.window : -self.window]) / self.window
        return abs(now - before) <= self.tolerance * max(1.0, abs(before))


def state(*shape: int) -> Tensor:
    """A float64 tensor of zeros for a buffer."""
    return torch.zeros(shape, dtype=torch.float64)


def converge(inference: Inference, x: Tensor, iterations: int) -> Inference:
    """Iterate on the data x (N, C) until convergence, at most `iterations` times."""
    inference.begin([x])
    while inference.iterations < iterations and not inference.converged:
        inference.iterate()
    return inference


def matched(distances: Tensor) -> Tensor:
    """The column of each row in the matching with the least sum of distances (K, K), (K,)."""
    from scipy.optimize import linear_sum_assignment  # late, as it is slow to import

    return torch.as_tensor(linear_sum_assignment(distances.numpy())[1])


def forgetting_rate(count: Tensor, delay: float, forgetting: float) -> float:
    r"""The step size $(t + \tau)^{-\kappa}$ of step t = `count` (Hoffman et al. 2013, eq. 26)."""
    return float((float(count) + delay) ** -forgetting)
