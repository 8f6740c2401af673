import random

import numpy as np
import pytest
import torch
from latentlab.figures.latents import palette, plot, principal_components
from latentlab.figures.manifold import quantile_grid
from matplotlib.image import imread
from sklearn.decomposition import PCA
from toy import ToyData, ToyModule, trainer_in

from latentlab.figures import Latents, Manifold, Reconstructions, Samples
from latentlab.figures.drawing import undisturbed
from latentlab.figures.images import tile

NAMES = {"latents", "samples", "sample_means", "reconstructions"}


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def fit(folder, callbacks=(), latent_dim=2, **options):
    torch.manual_seed(0)
    module = ToyModule(latent_dim)
    trainer = trainer_in(folder, callbacks, **options)
    trainer.fit(module, ToyData())
    return module, trainer


def all_figures(every=1):
    return [Latents(every), Samples(every), Reconstructions(every), Manifold(every, rows=6)]


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_draws_every_figure_at_the_end(tmp_path, latent_dim):
    module, trainer = fit(tmp_path, all_figures(every=10), latent_dim)
    assert not (tmp_path / "figures").exists()
    trainer.test(module, ToyData(), verbose=False)
    drawn = {path.stem: path for path in (tmp_path / "figures").glob("*.png")}
    assert set(drawn) == NAMES | ({"manifold"} if latent_dim == 2 else set())
    for path in drawn.values():
        assert 3_000 < path.stat().st_size < 200_000
        assert min(imread(path).shape[:2]) > 500


def test_draws_every_n_epochs(tmp_path):
    fit(tmp_path, all_figures(every=2), epochs=1)
    assert not (tmp_path / "figures").exists()
    fit(tmp_path, all_figures(every=2), epochs=2)
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} > NAMES


def test_drawing_changes_no_number_of_the_training(tmp_path):
    plain, _ = fit(tmp_path)
    before = states()
    drawn, _ = fit(tmp_path, all_figures())
    assert states() == before
    for a, b in zip(plain.parameters(), drawn.parameters(), strict=True):
        assert torch.equal(a, b)


def test_modes_are_restored_and_draws_repeat(tmp_path):
    module, trainer = fit(tmp_path)
    module.train()
    module.model.dropout.eval()
    trainer.datamodule = ToyData()
    before, pictures = states(), []
    for _ in range(2):
        Samples()._record(trainer, module, at_end=False)
        pictures.append((tmp_path / "figures" / "samples.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert module.model.training and not module.model.dropout.training
    assert states() == before


def test_an_error_in_drawing_is_raised(tmp_path):
    module, trainer = fit(tmp_path)
    module.model.generate = None
    with pytest.raises(TypeError):
        Samples()._record(trainer, module, at_end=False)


def test_principal_components_are_scikit_learns():
    torch.manual_seed(0)
    z = torch.randn(200, 6) * torch.tensor([3.0, 0.1, 2.0, 1.0, 0.5, 0.2]) + 1
    points, explained = principal_components(z)
    pca = PCA(2).fit(z.numpy().astype(np.float64))
    np.testing.assert_allclose(explained, pca.explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(points.abs(), np.abs(pca.transform(z.numpy().astype(np.float64))), atol=1e-4)


def test_principal_components_of_a_collapsed_posterior_are_finite():
    points, explained = principal_components(torch.ones(10, 4))
    assert points.isfinite().all() and explained.isfinite().all()


def test_labels():
    assert list(palette(torch.tensor([3, -1, 0]))) == [-1, 0, 3]
    assert len(set(palette(torch.arange(47)).values())) == 47
    unlabelled = plot(torch.randn(20, 2), torch.full((20,), -1), ["z_1", "z_2"])
    assert not unlabelled.legends
    labelled = plot(torch.randn(20, 2), torch.arange(20) % 10, ["z_1", "z_2"])
    assert [text.get_text() for text in labelled.legends[0].get_texts()] == [str(i) for i in range(10)]


def test_a_cap_on_the_points(tmp_path):
    module, trainer = fit(tmp_path)
    trainer.datamodule = ToyData()
    with undisturbed(module.model):
        drawing = Latents(max_points=20).draw(trainer, module.model)
    assert len(drawing.tables["latents"].rows) == 20
    assert drawing.tables["latents"].columns == ["z_1", "z_2", "label"]


def test_grids():
    picture = tile(torch.stack([torch.full((1, 2, 2), i / 8) for i in range(3)]), columns=2)
    assert picture.shape == (5, 5)
    assert picture[0, 0] == 0 and picture[0, 3] == 1 / 8 and picture[3, 0] == 2 / 8
    z = quantile_grid(3)
    assert z.shape == (9, 2)
    assert z[0, 0] < 0 < z[0, 1]  # upper left
