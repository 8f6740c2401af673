"""The quality of samples: distances between features of samples and of images.

Features are tensors (N, D). Every distance is computed in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from latentlab.errors import UserError

NEIGHBOURS = 3
# The random splits into halves: for distances that are computed fast, and for those to neighbours.
SPLITS, FEW_SPLITS = 40, 10
# The numbers of a matrix of pairs that is held in memory at a time, 8 MB.
PAIRS = 2**20
# The relative error of squared distances by a matrix product.
ROUNDING = 1e-12
Distance = Callable[[Tensor, Tensor], Tensor]
# It takes x, y and masks of subsets, (N, C) and (M, C), and returns the distance of each pair of subsets, (C,).
SubsetDistances = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
StandardError = Callable[[Tensor], Tensor]


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""The squared Frechet distance of two normal distributions with the moments of x and y, ().

    $|m_x - m_y|^2 + \mathrm{tr}(S_x + S_y - 2 (S_x^{1/2} S_y S_x^{1/2})^{1/2})$ (Dowson and Landau 1982; Heusel et al.
    2017, eq. 6). The matrix under the root is symmetric, so all its eigenvalues are real.
    """
    (mean_x, cov_x), (mean_y, cov_y) = _moments(x), _moments(y)
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    return (mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * overlap


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.double().mean(0), torch.atleast_2d(x.double().T.cov())


def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""The unbiased squared maximum mean discrepancy with the kernel $k(a, b) = (a^\top b / D + 1)^3$, ().

    Binkowski et al. 2018, eq. 4 and section 4.2. It may be negative.
    """
    return kernel_distances(x, y, *(torch.ones(len(each), 1, dtype=torch.bool) for each in (x, y)))[0]


def kernel_distances(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    """The kernel distances of subsets of x (N, D) and y (M, D), (C,), see `kernel_distance`.

    The kernel is computed once for all.

    Args:
        x: features (N, D).
        y: features (M, D).
        in_x: the masks of the subsets of x, (N, C).
        in_y: the masks of the subsets of y, (M, C).
    """
    x, y, in_x, in_y = (each.double() for each in (x, y, in_x, in_y))
    across = _kernel_sums(x, y, in_x, in_y) / (in_x.sum(0) * in_y.sum(0))
    return _within(x, in_x) + _within(y, in_y) - 2 * across


def _within(x: Tensor, inside: Tensor) -> Tensor:
    # The mean over pairs of different points.
    own = (x.square().sum(1) / x.shape[1] + 1) ** 3
    n = inside.sum(0)
    return (_kernel_sums(x, x, inside, inside) - own @ inside) / (n * (n - 1))


def _kernel_sums(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    size = _chunk(y)
    parts = zip(x.split(size), in_x.split(size), strict=True)
    return torch.stack([(part * (_kernel(each, y) @ in_y)).sum(0) for each, part in parts]).sum(0)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def _chunk(y: Tensor) -> int:
    # The number of rows whose pairs with y fit into memory.
    return max(PAIRS // len(y), 1)


def precision(x: Tensor, y: Tensor) -> Tensor:
    r"""The fraction of samples x that lie in a ball of y, ().

    A ball reaches from a point of y to its third nearest neighbour in y (Kynkaanniemi et al. 2019, eq. 1 and 2).
    """
    return coverage(x, y)


def recall(x: Tensor, y: Tensor) -> Tensor:
    """The fraction of images y that lie in a ball of samples x, (), see `precision`."""
    return coverage(y, x)


def coverage(points: Tensor, others: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """The fraction of points that lie in a ball around one of the others, see `precision`."""
    points, others = points.double(), others.double()
    reach = _squared_radii(others, neighbours) + ROUNDING * others.square().sum(1)
    near = [(_squared_distances(part, others) <= reach).any(1) for part in points.split(_chunk(others))]
    return torch.cat(near).double().mean()


def _squared_radii(x: Tensor, neighbours: int) -> Tensor:
    radii = torch.empty(len(x), dtype=x.dtype)
    for rows in torch.arange(len(x)).split(_chunk(x)):
        # The nearest neighbour is the point itself.
        radii[rows] = _squared_distances(x[rows], x).topk(neighbours + 1, largest=False).values[:, -1]
    return radii


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    # The matrix product is four times as fast as differences.
    return (x @ y.T).mul_(-2).add_(x.square().sum(1)[:, None]).add_(y.square().sum(1))


def _one_by_one(distance: Distance) -> SubsetDistances:
    def distances(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
        masks = zip(in_x.T, in_y.T, strict=True)
        return torch.stack([distance(x[own], y[others]) for own, others in masks])

    return distances


def linear_error(halves: Tensor) -> Tensor:
    r"""The standard error of a distance d from its values on both halves A and B of random splits, (S, 2), ().

    $\sqrt{\overline{(d_A - d_B)^2} / 4}$. It is exact for means over the data.
    """
    return (halves[:, 0] - halves[:, 1]).square().mean().sqrt() / 2


def smooth_error(halves: Tensor) -> Tensor:
    r"""The standard error of a distance d that is almost a U-statistic, see `linear_error`.

    The mean of $d_A$ over all halves is d itself for a U-statistic (Hoeffding 1948). Its variance follows from the law
    of total variance, $V[E(d_A | x, y)] = V(d_A) - E[V(d_A | x, y)]$. On the right, $(d_A - d_B)^2 / 2$ estimates the
    first term, and the variance of $d_A$ over splits the second. Their difference is $(d_A - d_B)^2 / 4$ minus the
    variance of $(d_A + d_B) / 2$ over splits.

    The last variance is limited to 3/4 of the first term, its share for the third order of the data. Near equal
    distributions the linear order vanishes, and a jackknife is too large by $\sqrt 2$ or more.
    """
    first = linear_error(halves).square()
    return (first - halves.mean(1).var().clamp(max=0.75 * first)).sqrt()


@dataclass(frozen=True)
class Measure:
    """A distance of features with its standard error.

    Attributes:
        distances: the distances of subsets.
        error: the standard error, from the distances of both halves of random splits.
        splits: the number of these splits.
        equal: True if it needs sets of equal size.
    """

    distances: SubsetDistances
    error: StandardError
    splits: int
    equal: bool


# The measures by the names of their results.
MEASURES: dict[str, Measure] = {
    "fid": Measure(_one_by_one(frechet_distance), smooth_error, SPLITS, equal=False),
    "kid": Measure(kernel_distances, smooth_error, SPLITS, equal=False),
    "precision": Measure(_one_by_one(precision), linear_error, FEW_SPLITS, equal=True),
    "recall": Measure(_one_by_one(recall), linear_error, FEW_SPLITS, equal=True),
}


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error."""

    value: float
    error: float


def compare(x: Tensor, y: Tensor, seed: int = 0) -> dict[str, Estimate]:
    """Compare features x (N, D) of samples with features y (M, D) of images, M >= N, by every measure.

    The errors are those of `smooth_error` and `linear_error`. `precision` and `recall` use N random rows of y.

    Raises:
        UserError: for fewer than 8 samples, fewer images than samples, or features that are not finite.
    """
    check_sizes(len(x), len(y))
    for name, features in {"samples": x, "images": y}.items():
        if not features.isfinite().all():
            raise UserError(
                f"the features of the {name} are not finite: give another run or fid.classifier=FILE"
            )
    generator = Generator().manual_seed(seed)
    equal = y[torch.randperm(len(y), generator=generator)[: len(x)]]
    return {
        name: _estimate(measure, x, equal if measure.equal else y, generator)
        for name, measure in MEASURES.items()
    }


def check_sizes(samples: int, images: int) -> None:
    """Check the numbers of samples and images.

    Raises:
        UserError: if there are too few.
    """
    if samples < 8:
        raise UserError(f"fid.samples={samples}: a distance with an error needs at least 8 samples")
    if images < samples:
        raise UserError(
            f"fid.samples={samples}: there are only {images:,} images to compare with: give at most as many"
        )


def _estimate(measure: Measure, x: Tensor, y: Tensor, generator: Generator) -> Estimate:
    masks = (_whole_and_halves(len(each), measure.splits, generator) for each in (x, y))
    whole, *halves = measure.distances(x, y, *masks).split([1, 2 * measure.splits])
    return Estimate(float(whole), float(measure.error(halves[0].view(-1, 2))))


def _whole_and_halves(n: int, splits: int, generator: Generator) -> Tensor:
    # The masks of all rows, and of both halves of each split, (n, 1 + 2 splits).
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(splits)], 1)
    halves = torch.stack([order < n // 2, (n // 2 <= order) & (order < n // 2 * 2)], 2)
    return torch.cat([torch.ones(n, 1, dtype=torch.bool), halves.flatten(1)], 1)
