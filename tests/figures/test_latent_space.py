"""Scatter plots of latents."""

import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from test_images import data, vae

from latentlab.errors import UserError
from latentlab.figures import latents, latents_tsne
from latentlab.figures.drawing import spread_over
from latentlab.figures.latent_space import Plane, check_umap, legend, palette, panels, principal_axes, scatter


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_latents_carry_their_points_as_a_table(latent_dim):
    table = latents(vae(latent_dim), data(), max_points=20).tables["latents"]
    assert len(table.rows) == 20 and len(table.columns) == min(latent_dim, 2) + 1
    assert table.columns[0] == "z_1" if latent_dim < 3 else table.columns[0].startswith("component 1 (")


def test_principal_components_are_scikit_learns():
    z = torch.randn(200, 6) * torch.tensor([3.0, 0.1, 2.0, 1.0, 0.5, 0.2]) + 1
    pca = PCA(2).fit(z.numpy().astype(np.float64))
    _, explained = principal_axes(z.double() - z.double().mean(0))
    np.testing.assert_allclose(explained, pca.explained_variance_ratio_, rtol=1e-6)
    points = Plane.of(z)(z)
    np.testing.assert_allclose(points.abs(), np.abs(pca.transform(z.numpy().astype(np.float64))), atol=1e-4)


def test_principal_components_of_a_collapsed_posterior_are_finite():
    z = torch.ones(10, 4)
    assert Plane.of(z)(z).isfinite().all()


def test_an_embedding_places_the_draws_of_the_prior_too():
    drawn = latents_tsne(vae(5), data(), prior_draws=30)
    assert len(drawn.tables["latents"].rows) == 40 and "p(z)" in drawn.axes[0].get_title()


def test_umap_without_its_library_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    (tmp_path / "umap").mkdir()
    with pytest.raises(UserError, match="pip install umap-learn"):
        check_umap(vae(5))


def words(labels):
    """The words of a figure's legend."""
    figure = Figure()
    scatter(figure.add_subplot(), torch.randn(20, 2), labels, ["z_1", "z_2"])
    legend(figure, labels)
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def test_labels_have_colours_and_a_legend():
    assert list(palette(torch.tensor([3, -1, 0]))) == [-1, 0, 3]
    assert len(set(palette(torch.arange(47)).values())) == 47
    assert words(torch.full((20,), -1)) == []
    assert words(torch.arange(20) % 10) == [str(i) for i in range(10)]


def test_layers_are_chosen_from_the_whole_range():
    assert spread_over(3, 6) == [0, 1, 2]
    assert spread_over(100, 4) == [0, 33, 66, 99]
    assert spread_over(100, 1) == [99]


def test_a_panel_for_each_layer():
    zs = [torch.randn(20, size) for size in (1, 2, 5, 3)]
    figure = panels(zs, torch.arange(20) % 10, [1, 2, 7, 9])
    assert [axes.get_title() for axes in figure.axes] == [
        f"$z_{{{number}}}$: {size} latents" for number, size in ((1, 1), (2, 2), (7, 5), (9, 3))
    ]
    assert len(figure.legends[0].get_texts()) == 10
