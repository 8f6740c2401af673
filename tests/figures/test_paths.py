"""Interpolations, traversals and nearest neighbours."""

import pytest
import torch
from hydra.utils import instantiate
from oracles import tiny_vae
from parts import composed, smaller
from sklearn.neighbors import NearestNeighbors
from test_images import data, vae

from latentlab.batch import Batch, Sets
from latentlab.callbacks.figures import check_needs
from latentlab.errors import UserError
from latentlab.figures import interpolations, neighbours, traversals
from latentlab.figures.neighbours import nearest_images
from latentlab.figures.paths import PATHS, check_real, geodesic, spherical, straight, traversal
from latentlab.geometry import decoder_means, length

TIMES = torch.linspace(0, 1, 5)


@pytest.mark.parametrize("path", [straight, spherical])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_path_has_its_ends(path, size):
    start, end = torch.randn(2, 4, size)
    points = path(None, start, end, TIMES)
    torch.testing.assert_close(points[:, 0], start)
    torch.testing.assert_close(points[:, -1], end)


def test_a_spherical_path_is_an_arc():
    points = spherical(None, torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), TIMES)[0]
    torch.testing.assert_close(points.norm(dim=1), torch.full((5,), 2.0))
    angles = torch.atan2(points[:, 1], points[:, 0])
    torch.testing.assert_close(angles, TIMES * torch.pi / 2)


@pytest.mark.parametrize("factor", [2.0, -1.0])
def test_a_spherical_path_along_a_line_is_straight(factor):
    start = torch.tensor([[1.0, 2.0]])
    points = spherical(None, start, factor * start, TIMES)
    torch.testing.assert_close(points, straight(None, start, factor * start, TIMES))


def test_the_geodesics_of_an_affine_decoder_are_straight():
    torch.manual_seed(0)
    model = instantiate(smaller(composed("model=linear_vae", "data=continuous_digits")).module).model
    start, end = torch.randn(2, 3, model.latent_dim)
    ends = model, start, end, TIMES
    torch.testing.assert_close(geodesic(*ends), straight(*ends), atol=1e-4, rtol=0)


def test_a_geodesic_is_shorter_than_the_other_paths():
    torch.manual_seed(0)
    model, times = vae(2), torch.linspace(0, 1, 20)
    start, end = 3 * torch.randn(2, 4, 2)
    with torch.no_grad():
        found = {
            name: length(decoder_means(model), path(model, start, end, times)) for name, path in PATHS.items()
        }
    assert (found["geodesic"] < found["straight"]).all() and (found["geodesic"] < found["spherical"]).all()


def test_an_unknown_path_is_refused():
    with pytest.raises(UserError, match=r"there is no path strait.*did you mean straight"):
        interpolations(vae(3), data(), paths=["strait"])


def rows(drawn):
    return [label.get_text() for label in drawn.axes[0].get_yticklabels()]


def test_interpolations_have_a_row_for_each_pair_and_path():
    assert rows(interpolations(vae(3), data(), pairs=2)) == ["straight", "spherical", "geodesic"] * 2
    one_hot = instantiate(smaller(composed("model=categorical_vae")).module).model
    assert rows(interpolations(one_hot, data(), pairs=1)) == ["straight", "spherical"]


def test_the_most_active_latent_comes_first():
    model = vae(4)
    with torch.no_grad():
        x = torch.cat([batch.x for batch in data()])
        order = model.posterior_mean(x).var(0).argsort(descending=True)
    assert rows(traversals(model, data(), rows=3)) == [f"$z_{{{index + 1}}}$" for index in order[:3].tolist()]


def test_a_traversal_moves_one_latent():
    values = torch.tensor([1.0, 3.0])
    z = traversal(torch.tensor([7.0, 8.0]), 1, values, torch.tensor([-1.0, 0.0, 1.0]))
    deviation = values.std().item()
    torch.testing.assert_close(z, torch.tensor([[7.0, 2 - deviation], [7.0, 2.0], [7.0, 2 + deviation]]))


def test_vectors_are_not_drawn_as_images():
    model = tiny_vae(2, x_shape=(4,))
    for name in ("interpolations", "manifold", "samples"):
        with pytest.raises(UserError, match="this figure draws images"):
            check_needs(name, model)


def test_one_hot_latents_are_not_moved():
    model = instantiate(smaller(composed("model=categorical_vae")).module).model
    assert traversals(model, data()) is None
    with pytest.raises(UserError, match="one-hot"):
        check_real(model)


def test_the_nearest_images_are_scikit_learns():
    train, x = torch.rand(50, 1, 3, 4), torch.rand(6, 1, 3, 4)
    batches = [Batch(part, torch.zeros(len(part))) for part in train.split([2, 40, 8])]
    distances, images = nearest_images(x, batches, 3)
    expected, which = NearestNeighbors(n_neighbors=3).fit(train.flatten(1)).kneighbors(x.flatten(1))
    torch.testing.assert_close(distances.double(), torch.from_numpy(expected), atol=1e-5, rtol=0)
    assert torch.equal(images, train[torch.from_numpy(which)])


def test_copies_of_training_images_have_no_distance():
    model = vae(2)
    copies = torch.cat([batch.x for batch in data()])
    model.generate = lambda n, mean=False: copies[:n]
    table = neighbours(model, Sets(data(), data()), number=20).tables["neighbours"]
    assert len(table.rows) == 40 and all(distance < 1e-2 for _, distance in table.rows)
