"""The quality of samples: distances between features of samples and of images.

Features are tensors (N, D). Every distance is computed in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from latentlab.errors import UserError

RESAMPLES = 10
NEIGHBOURS = 3
Distance = Callable[[Tensor, Tensor], Tensor]


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
    return _within(x.double()) + _within(y.double()) - 2 * _kernel(x.double(), y.double()).mean()


def _within(x: Tensor) -> Tensor:
    # The mean over pairs of different points.
    kernel = _kernel(x, x)
    return (kernel.sum() - kernel.trace()) / (len(x) * (len(x) - 1))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


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
    # The nearest neighbour is the point itself.
    radii = _distances(others, others).kthvalue(neighbours + 1).values
    return (_distances(points, others) <= radii).any(1).double().mean()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # The faster way by a matrix product may give a point a distance to itself.
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


# The measures by the names of their results: the distance, and True if it needs sets of equal size.
MEASURES: dict[str, tuple[Distance, bool]] = {
    "fid": (frechet_distance, False),
    "kid": (kernel_distance, False),
    "precision": (precision, True),
    "recall": (recall, True),
}


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error."""

    value: float
    error: float


def compare(x: Tensor, y: Tensor, seed: int = 0) -> dict[str, Estimate]:
    """Compare features x (N, D) of samples with features y (M, D) of images, M >= N, by every measure.

    The error is the standard deviation over random halves of both sets. It is a delete-d jackknife with d = N / 2 (Shao
    and Wu 1989), whose factor is one. `precision` and `recall` use N random rows of y.

    Raises:
        UserError: for fewer than 8 samples, or fewer images than samples.
    """
    check_sizes(len(x), len(y))
    generator = Generator().manual_seed(seed)
    equal = y[torch.randperm(len(y), generator=generator)[: len(x)]]
    return {
        name: _resampled(distance, x, equal if same else y, generator)
        for name, (distance, same) in MEASURES.items()
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


def _resampled(distance: Distance, x: Tensor, y: Tensor, generator: Generator) -> Estimate:
    halves = [distance(_half(x, generator), _half(y, generator)) for _ in range(RESAMPLES)]
    return Estimate(float(distance(x, y)), float(torch.stack(halves).std()))


def _half(x: Tensor, generator: Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=generator)[: len(x) // 2]]
