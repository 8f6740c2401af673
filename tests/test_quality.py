"""Distances between features, against closed forms, SciPy and counts by hand."""

from math import sqrt

import pytest
import torch
from scipy import linalg

from latentlab import quality
from latentlab.errors import UserError


def features(n: int, seed: int, dimensions: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator)
    return torch.randn(n, dimensions, generator=generator) @ mixing + seed


def test_the_frechet_distance_agrees_with_the_square_root_of_scipy() -> None:
    for dimensions in (1, 6, 128):  # 100 points of 128 dimensions have a singular covariance
        x, y = features(100, 0, dimensions).double(), features(120, 1, dimensions).double()
        cov_x, cov_y = x.T.cov().reshape(dimensions, -1), y.T.cov().reshape(dimensions, -1)
        eps = 1e-10 * torch.eye(dimensions)  # the general root needs a regular product
        root = linalg.sqrtm(((cov_x + eps) @ (cov_y + eps)).numpy()).real
        mean = (x.mean(0) - y.mean(0)).square().sum()
        expected = mean + cov_x.trace() + cov_y.trace() - 2 * root.trace()
        assert quality.frechet_distance(x, y).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_frechet_distance_has_its_closed_form_and_is_zero_for_equal_sets() -> None:
    x = features(50, 0)
    assert quality.frechet_distance(x, x).item() == pytest.approx(0, abs=1e-9)
    assert quality.frechet_distance(x, x + 2).item() == pytest.approx(6 * 4, rel=1e-6)
    # Diagonal covariances s and t: sum (sqrt s - sqrt t)^2.
    line = torch.randn(1000, 1).double()
    spread = line.std().item()
    assert quality.frechet_distance(line, 3 * line).item() == pytest.approx(
        (2 * line.mean().item()) ** 2 + (2 * spread) ** 2
    )


def test_the_kernel_distance_is_the_mean_over_pairs() -> None:
    x, y = features(5, 0, 3).double(), features(7, 1, 3).double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    pairs_x = [kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j]
    pairs_y = [kernel(y[i], y[j]) for i in range(7) for j in range(7) if i != j]
    across = [kernel(a, b) for a in x for b in y]
    expected = sum(pairs_x) / 20 + sum(pairs_y) / 42 - 2 * sum(across) / 35
    assert quality.kernel_distance(x, y).item() == pytest.approx(expected)


def test_the_kernel_distance_of_one_distribution_is_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [quality.kernel_distance(*torch.randn(2, 20, 4, generator=generator)) for _ in range(400)]
    )
    z = draws.mean() / (draws.std() / sqrt(len(draws)))
    assert abs(z) < 4  # fails with probability 6e-5


def test_precision_and_recall_count_points_in_balls() -> None:
    line = torch.arange(10.0)[:, None]  # the third neighbour of an inner point has distance 2
    assert quality.precision(torch.tensor([[4.5], [11.9], [12.1]]), line).item() == pytest.approx(2 / 3)
    assert quality.recall(line, torch.tensor([[4.5], [11.9], [12.1]])).item() == pytest.approx(2 / 3)
    assert quality.precision(line, line) == quality.recall(line, line) == 1


def test_the_error_is_that_of_independent_sets() -> None:
    generator = torch.Generator().manual_seed(1)
    found = [
        quality.compare(*torch.randn(2, 200, 2, generator=generator), seed=seed)["kid"] for seed in range(60)
    ]
    spread = torch.tensor([each.value for each in found]).std().item()
    mean = torch.tensor([each.error for each in found]).square().mean().sqrt().item()
    assert 0.6 < mean / spread < 1.6


@pytest.mark.parametrize(("samples", "images", "word"), [(4, 10, "8"), (20, 10, "10")])
def test_too_few_images_are_refused(samples: int, images: int, word: str) -> None:
    with pytest.raises(UserError, match=rf"fid.samples={samples}: .*{word}"):
        quality.compare(features(samples, 0), features(images, 1))
