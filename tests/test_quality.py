"""Distances between features, against closed forms, SciPy and counts by hand."""

from dataclasses import replace
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


@pytest.mark.parametrize(
    ("name", "scale", "low", "high"),
    [
        # For equal distributions the linear part vanishes, and jackknives are 1.4 to 1.7 times too large.
        *(("fid", 1.0, 0.7, 1.35), ("kid", 1.0, 0.7, 1.35), ("fid", 1.5, 0.7, 1.35)),
        *(("precision", 1.0, 0.6, 1.7), ("recall", 1.0, 0.6, 1.7)),
    ],
)
def test_the_error_is_the_spread_of_independent_sets(
    name: str, scale: float, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "MEASURES", {name: replace(quality.MEASURES[name], splits=15)})
    generator = torch.Generator().manual_seed(1)
    found = []
    for seed in range(50):
        x, y = torch.randn(2, 40, 2, generator=generator)
        found.append(quality.compare(scale * x, y, seed=seed)[name])
    spread = torch.tensor([each.value for each in found]).std().item()
    error = torch.tensor([each.error for each in found]).square().mean().sqrt().item()
    assert low < error / spread < high  # the spread of 50 values has a standard error of 10 % to 15 %


def test_the_error_of_a_u_statistic_of_two_orders_is_unbiased() -> None:
    # d = a mean(x) + sum over pairs x_i x_j / (n (n - 1)), with the variance a^2 / n + 2 / (n (n - 1)).
    n, slope, generator = 40, 0.3, torch.Generator().manual_seed(2)
    variance = slope**2 / n + 2 / (n * (n - 1))

    def statistic(x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-1]
        return slope * x.mean(-1) + (x.sum(-1) ** 2 - x.square().sum(-1)) / (size * (size - 1))

    def error() -> torch.Tensor:
        x = torch.randn(n, generator=generator)
        orders = torch.stack([torch.randperm(n, generator=generator) for _ in range(60)])
        return quality.smooth_error(statistic(x[orders.view(60, 2, n // 2)]))

    squares = torch.stack([error() for _ in range(300)]).square()
    z = (squares.mean() - variance) / (squares.std() / sqrt(300))
    assert abs(z) < 4 or abs(squares.mean() / variance - 1) < 0.05  # the limit of 3/4 costs less than 5 %


@pytest.mark.parametrize("measure", ["kid", "precision", "recall"])
def test_parts_of_the_matrices_of_pairs_give_the_same_distances(
    measure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = features(50, 0), features(70, 0)[20:]
    expected = quality.compare(x, y)[measure]
    monkeypatch.setattr(quality, "PAIRS", 150)  # three rows of fifty
    found = quality.compare(x, y)[measure]
    assert found.value == pytest.approx(expected.value, rel=1e-9, abs=1e-12)
    assert found.error == pytest.approx(expected.error, rel=1e-9, abs=1e-12)


def test_subsets_have_the_kernel_distances_of_their_rows() -> None:
    x, y = features(20, 0), features(30, 1)
    in_x, in_y = (torch.rand(n, 3, generator=torch.Generator().manual_seed(n)) < 0.5 for n in (20, 30))
    expected = [
        quality.kernel_distance(x[own], y[others]) for own, others in zip(in_x.T, in_y.T, strict=True)
    ]
    assert torch.allclose(quality.kernel_distances(x, y, in_x, in_y), torch.stack(expected))


@pytest.mark.parametrize("place", ["samples", "images"])
def test_features_that_are_not_finite_are_refused(place: str) -> None:
    x, y = features(20, 0), features(30, 1)
    (x if place == "samples" else y)[3, 2] = torch.nan
    with pytest.raises(UserError, match=f"features of the {place} are not finite"):
        quality.compare(x, y)


@pytest.mark.parametrize(("samples", "images", "word"), [(4, 10, "8"), (20, 10, "10")])
def test_too_few_images_are_refused(samples: int, images: int, word: str) -> None:
    with pytest.raises(UserError, match=rf"fid.samples={samples}: .*{word}"):
        quality.compare(features(samples, 0), features(images, 1))
