"""Contours of p(z) against closed forms."""

from functools import partial
from math import pi

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from oracles import largest_z, tiny_vae
from parts import composed, smaller
from test_images import data, vae
from torch.distributions import Distribution, Normal

from latentlab.batch import Batch
from latentlab.figures import latents, save
from latentlab.figures.contours import (
    PriorView,
    components,
    exact_density,
    grid,
    histogram,
    prior_view,
    words,
)
from latentlab.figures.latent_space import Cloud, Plane, sheet
from latentlab.posteriors import FullRankNormalPosterior
from latentlab.priors import MixtureOfGaussiansPrior, VampPrior

MASSES = (0.25, 0.5, 0.75, 0.95)
SQUARE = [np.linspace(-6, 6, 161)] * 2


def test_the_lines_of_a_standard_normal_hold_their_mass():
    levels = exact_density(vae(2), SQUARE).levels(MASSES)
    assert list(levels) == sorted(MASSES, reverse=True)
    np.testing.assert_allclose(
        list(levels.values()), [(1 - mass) / (2 * pi) for mass in reversed(MASSES)], rtol=0.02
    )


def test_a_line_that_leaves_the_grid_is_left_out():
    edges = [np.linspace(-1, 1, 161)] * 2  # holds 47 % of the mass
    density = exact_density(vae(2), edges)
    assert list(density.levels(MASSES)) == [0.25]
    assert words(PriorView(density)) == "lines hold 25 % of p(z)"


def test_panels_with_different_lines_name_their_own():
    edges = [[np.linspace(-end, end, 161)] * 2 for end in (1, 6)]
    views = [PriorView(exact_density(vae(2), each)) for each in edges]
    clouds = [("run", Cloud(torch.zeros(3, 2), torch.zeros(3), ("a", "b"), view)) for view in views]
    titles = [[axes.get_title() for axes in sheet(each).axes[:2]] for each in (clouds, clouds[1:] * 2)]
    assert titles == [
        ["run\nlines hold 25 % of p(z)", "run\nlines hold 25, 50, 75, 95 % of p(z)"],
        ["run", "run"],
    ]


@pytest.mark.parametrize("size", [1, 2])
def test_a_histogram_of_many_draws_is_the_density(size):
    draws = torch.randn(400_000, size, generator=torch.Generator().manual_seed(0))
    found = histogram(draws, SQUARE[:size])
    assert found.values.sum() * found.cell == pytest.approx(1, abs=1e-3)
    one = Normal(0.0, 1.0).log_prob(torch.from_numpy(found.centres[0])).exp().numpy()
    exact = one if size == 1 else one[:, None] * one
    assert np.abs(found.values - exact).sum() * found.cell < 0.05


def test_the_grid_holds_the_points_and_the_prior():
    ends = [(each[0], each[-1]) for each in grid(torch.tensor([[9.0, 0.0]]), torch.randn(10_000, 2))]
    assert ends[0][0] < -2.5 and ends[0][1] > 9 and ends[1][1] > 2.5


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("prior", [MixtureOfGaussiansPrior, VampPrior])
def test_components_have_the_moments_of_their_draws(prior, size):
    torch.manual_seed(0)
    made = {"prior": partial(prior, num_components=3), "posterior": FullRankNormalPosterior}
    model = tiny_vae(size, **made)
    place = Plane.of(torch.randn(50, size) * torch.arange(1, size + 1))
    with torch.no_grad():
        found = components(model, place)
        drawn = model.prior().component_distribution.sample((4_000,))  # (4000, 3, size)
    points = place(drawn.flatten(0, 1)).view(4_000, 3, 2)
    assert largest_z(points, found.means) < 4.5
    centred = points - found.means
    assert largest_z(centred[..., :, None] * centred[..., None, :], found.covariances) < 4.5


@pytest.mark.parametrize(
    ("words", "contours"),
    [
        ("model=vae model.latent_dim=2", True),
        ("model=categorical_vae", True),
        ("model=hierarchical_vae", True),
        ("model=latent_vdm model.sample_steps=2", True),
        ("model=autoencoder", False),
    ],
)
def test_every_model_with_a_prior_has_contours(words, contours):
    model = instantiate(smaller(composed(*words.split())).module).model.eval()
    drawn = latents(model, data(), prior_draws=40)
    assert ("p(z)" in drawn.axes[0].get_title()) is contours


@pytest.mark.parametrize("log_scale", [80.0, 700.0, float("inf")])
def test_an_exploded_prior_does_not_stop_a_training(log_scale, monkeypatch, tmp_path):
    monkeypatch.setattr(Distribution, "_validate_args", False)  # as in training
    model = tiny_vae(2, x_shape=(1, 28, 28), prior=partial(MixtureOfGaussiansPrior, num_components=3))
    with torch.no_grad():
        model.prior.log_scales.fill_(log_scale)
    drawn = latents(model, [Batch(x.double(), y) for x, y in data()], prior_draws=50)
    save(drawn, tmp_path / "latents.png")


def test_contours_can_be_left_out_and_noise_has_none():
    points = torch.randn(10, 2)
    assert prior_view(vae(2), Plane.of(points), points, draws=0) is None
    noised = vae(2)
    noised.learned_inference = False
    assert prior_view(noised, Plane.of(points), points, draws=10) is None
