r"""Points in the plane with a known density: toy sets for flows, diffusions and VAEs."""

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from math import log, pi
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from latentlab.data.images import ImageData, Images, Splits
from latentlab.data.loader import seeded
from latentlab.errors import UserError

# The points of a curve by which its density is integrated, closer to each other than the least noise.
ANGLES = 400


class Points(ABC):
    """A distribution of points in the plane, each with the label of its component.

    Attributes:
        name: the name of the set.
    """

    name: str

    @abstractmethod
    def sample(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw n points, (n, 2), and their labels, (n,)."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """The exact log-density of points (N, 2), (N,)."""


@dataclass(frozen=True)
class CorrelatedNormal(Points):
    r"""A normal distribution with mean 0, unit variances and a correlation.

    Attributes:
        correlation: the correlation of both coordinates.
    """

    correlation: Annotated[float, Field(gt=-1, lt=1)] = 0.8
    name = "normal"

    @property
    def distribution(self) -> MultivariateNormal:
        return MultivariateNormal(
            torch.zeros(2), torch.tensor([[1.0, self.correlation], [self.correlation, 1.0]])
        )

    def sample(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        eps = torch.randn(n, 2, generator=generator)
        return eps @ self.distribution.scale_tril.T, torch.zeros(n, dtype=torch.long)

    def log_density(self, x: Tensor) -> Tensor:
        return self.distribution.log_prob(x)


@dataclass(frozen=True)
class TwoGaussians(Points):
    """Two normal distributions at (-d, 0) and (d, 0) with equal weights.

    Attributes:
        distance: d.
        scale: the standard deviation of both, along each axis.
    """

    distance: PositiveFloat = 1.0
    scale: PositiveFloat = 0.4
    name = "two_gaussians"

    def sample(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(2, (n,), generator=generator)
        return self._means[y] + self.scale * torch.randn(n, 2, generator=generator), y

    def log_density(self, x: Tensor) -> Tensor:
        components = Independent(Normal(self._means, self.scale), 1)
        return MixtureSameFamily(Categorical(logits=torch.zeros(2)), components).log_prob(x)

    @property
    def _means(self) -> Tensor:
        return torch.tensor([[-self.distance, 0.0], [self.distance, 0.0]])


@dataclass(frozen=True)
class Chequerboard(Points):
    """The uniform distribution on every other square of a board that fills [-2, 2] x [-2, 2]. A label is a row.

    Attributes:
        squares: the number of squares along each side, an even number.
    """

    squares: Annotated[int, Field(ge=2, le=32, multiple_of=2)] = 4
    name = "chequerboard"

    def sample(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        row = torch.randint(self.squares, (n,), generator=generator)
        column = 2 * torch.randint(self.squares // 2, (n,), generator=generator) + row % 2
        place = torch.stack([column, row], 1) + torch.rand(n, 2, generator=generator)
        return 4 / self.squares * place - 2, row

    def log_density(self, x: Tensor) -> Tensor:
        place = ((x + 2) * self.squares / 4).floor()
        inside = ((place >= 0) & (place < self.squares)).all(-1) & (place.sum(-1) % 2 == 0)
        return torch.where(inside, -log(8), -torch.inf)


@dataclass(frozen=True)
class Moons(Points):
    r"""Two half circles with radius 1 that reach into each other, blurred by normal noise.

    The density of a moon is the mean of $N(x; c(\phi), s^2 I)$ over its angles.

    Attributes:
        noise: the standard deviation s.
    """

    noise: Annotated[float, Field(ge=0.02, le=10)] = 0.1
    name = "moons"

    def sample(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(2, (n,), generator=generator)
        centres = _moons(pi * torch.rand(n, generator=generator))[y, torch.arange(n)]
        return centres + self.noise * torch.randn(n, 2, generator=generator), y

    def log_density(self, x: Tensor) -> Tensor:
        angles = pi * (torch.arange(ANGLES) + 0.5) / ANGLES
        centres = _moons(angles).flatten(0, 1).to(x)
        squares = (x[..., None, :] - centres).square().sum(-1)
        return (-squares / (2 * self.noise**2)).logsumexp(-1) - log(len(centres) * 2 * pi * self.noise**2)


def _moons(angles: Tensor) -> Tensor:
    # The upper and the lower moon, (2, N, 2), centred at 0.
    x, y = angles.cos(), angles.sin()
    return torch.stack([torch.stack([x - 0.5, y - 0.25], -1), torch.stack([0.5 - x, 0.25 - y], -1)])


@dataclass(eq=False, repr=False)
class PointData(ImageData):
    """Draws of a distribution in the plane, as vectors (2,) under the protocol `real`.

    Attributes:
        points: the distribution.
        number: the number of training points, with those for validation.
        test_number: the number of test points.

    Raises:
        UserError: for another protocol.
    """

    points: Points
    _: KW_ONLY
    number: PositiveInt = 11_000
    test_number: PositiveInt = 10_000
    val_size: NonNegativeInt = 1000

    stored = torch.float32

    @property
    def word(self) -> str:
        options = [f"{key}-{value:g}" for key, value in vars(self.points).items()]
        return "_".join([self.points.name, *options])

    def __post_init__(self) -> None:
        self.name = self.points.name
        super().__post_init__()
        if self.protocol.name != "real":
            raise UserError(
                f"protocol={self.protocol.name}: {self.name} are vectors of real numbers: use protocol=real"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    def read(self) -> Splits:
        return Splits(
            *(Images(*self.points.sample(n, seeded(split))) for split, n in enumerate(self._numbers))
        )

    @property
    def _numbers(self) -> tuple[int, int]:
        return self.number, self.test_number
