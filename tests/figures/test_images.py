"""Images of a model: samples, reconstructions, the manifold, classes, frozen layers."""

from functools import partial

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from matplotlib.image import imread
from oracles import tiny_vae
from parts import composed, examples, smaller
from PIL import Image

from latentlab.batch import Batch
from latentlab.figures import drawing, latents, manifold, reconstructions, sample_means, samples, save
from latentlab.figures.drawing import cell, grids, spread, tile
from latentlab.figures.images import by_class, frozen_rows, kept_rows, quantile_grid
from latentlab.nn.mlp import MLP
from latentlab.protocols import Threshold

NETWORK = partial(MLP, hidden=(8,))


def vae(latent_dim=2):
    return tiny_vae(latent_dim, x_shape=(1, 28, 28), encoder=NETWORK, decoder=NETWORK).float()


def data(n=40):
    x, y = examples(Threshold(), n)
    return [Batch(x[:30], y[:30]), Batch(x[30:], y[30:])]


@pytest.mark.parametrize("draw", [samples, sample_means, reconstructions, manifold])
def test_a_figure_is_a_png_of_modest_size(tmp_path, draw):
    path = save(draw(vae(), data()), tmp_path / "figure.png", "caption")
    assert 3_000 < path.stat().st_size < 300_000 and min(imread(path).shape[:2]) > 500


@pytest.mark.parametrize("draw", [latents, reconstructions])
def test_the_pixels_are_those_of_savefig(tmp_path, draw):
    drawn = draw(vae(), data())
    save(drawn, tmp_path / "figure.png", "caption")
    size, dpi = drawn.get_size_inches().tolist(), drawn.dpi
    pixels = drawing.pixels(drawn, drawing.DPI)
    assert (drawn.get_size_inches().tolist(), drawn.dpi) == (size, dpi)
    drawn.savefig(tmp_path / "reference.png", dpi=drawing.DPI, facecolor="white")
    assert pixels.tobytes() == Image.open(tmp_path / "reference.png").convert("RGB").tobytes()


def test_greys_are_shown_to_the_nearest_of_48():
    greys = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
    shown = np.asarray(drawing.compact(Image.fromarray(greys).convert("RGB")).convert("RGB")).astype(int)
    assert np.abs(shown - greys[..., None]).max() <= 3
    assert [*shown[0, 0], *shown[0, -1]] == [0, 0, 0, 255, 255, 255]


def test_a_figure_leaves_modes_gradients_and_random_states_alone():
    model = vae()
    model.posterior.eval()
    before = torch.get_rng_state()
    samples(model, data())
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and not model.posterior.training and torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_figure_is_drawn_in_evaluation_mode_from_a_fixed_seed(tmp_path):
    model, modes, files = vae(), [], []
    model.likelihood.register_forward_hook(lambda module, *_: modes.append(module.training))
    for number in range(2):
        torch.manual_seed(number)
        files.append(save(samples(model, data()), tmp_path / f"{number}.png").read_bytes())
    assert files[0] == files[1] and modes == [False, False]


def test_only_two_latents_have_a_manifold():
    assert manifold(vae(1), data()) is None and manifold(vae(3), data()) is None


def test_examples_are_taken_from_the_whole_data():
    x, y = torch.arange(40.0).view(40, 1, 1, 1), torch.arange(40)
    chosen = spread(vae(), [Batch(x[:30], y[:30]), Batch(x[30:], y[30:])], 4)
    assert chosen.y.tolist() == [0, 13, 26, 39] and chosen.x.flatten().tolist() == [0, 13, 26, 39]
    assert len(spread(vae(), [Batch(x, y)], 100).y) == 40


def test_grids():
    picture = tile(torch.stack([torch.full((1, 2, 2), i / 8) for i in range(3)]), columns=2)
    assert picture.shape == (5, 5)
    assert picture[0, 0] == 0 and picture[0, 3] == 1 / 8 and picture[3, 0] == 2 / 8
    z = quantile_grid(3)
    assert z.shape == (9, 2)
    assert z[0, 0] < 0 < z[0, 1]  # upper left


def test_colours_stay_colours(tmp_path):
    colours = torch.rand(6, 3, 5, 9, generator=torch.Generator().manual_seed(0))
    picture = tile(colours, columns=3)
    assert picture.shape == (2 * 5 + 1, 3 * 9 + 2, 3)
    assert torch.equal(picture[6:, 10:19], colours[4].movedim(0, -1))
    drawn = imread(save(grids({"colours": colours}, 3), tmp_path / "colours.png"))
    seen = {tuple(pixel) for pixel in (drawn[..., :3].reshape(-1, 3) * 255).round().astype(int).tolist()}
    expected = colours[0].movedim(0, -1).reshape(-1, 3)
    near = [
        {tuple((pixel * 255 + shift).floor().int().tolist()) for shift in (0, 0.5, 0.999)}
        for pixel in expected
    ]
    assert all(each & seen for each in near)


@pytest.mark.parametrize("shape", [(1, 40, 10), (1, 10, 40), (3, 20, 20)])
def test_a_cell_has_the_shape_of_an_image_and_the_area_of_a_square(shape):
    width, height = cell(torch.zeros(2, *shape), side=3.0)
    assert width * height == pytest.approx(9) and width / height == pytest.approx(shape[2] / shape[1])


def test_every_class_has_the_same_z():
    model = instantiate(smaller(composed("model=conditional_vae")).module).model.eval()
    with torch.no_grad():
        means = by_class(model, range(10), 3, mean=True).unflatten(0, (10, 3))
        torch.manual_seed(2024)
        expected = model.generate(3, mean=True, y=torch.full((3,), 7))
    assert torch.equal(means[7], expected)


def test_rows_share_the_layers_that_are_kept():
    config = smaller(composed("model=hierarchical_vae", "model.latent_dims=[3,2,2]"))
    model = instantiate(config.module).model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        images = frozen_rows(model, [0, 1, 2, 3], 5).unflatten(0, (4, 5))
    spreads = images.var(1).flatten(1).mean(1)
    assert spreads[3] < 1e-12 < spreads[2]
    figure = kept_rows(images[:3].flatten(0, 1), [0, 1, 2], 5)
    words = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert words == ["none kept", "top 1 kept", "top 2 kept"]
