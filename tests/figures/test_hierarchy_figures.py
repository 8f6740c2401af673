"""Figures of hierarchies, drawn by real runs."""

import pytest
import torch
from commands import QUICK, call, refusal
from hydra.utils import instantiate
from latentlab.figures.frozen_layers import frozen_rows, rows
from latentlab.figures.layers import bars, panels, spread_over
from matplotlib.image import imread
from parts import composed, smaller

from latentlab.figures import usage

DRAWN = ("callbacks=hierarchy", "data.val_size=1400", "trainer.log_every_n_steps=1")
FIGURES = {
    "latents_layers",
    "layer_kl",
    "frozen_layers",
    "latents",
    "samples",
    "sample_means",
    "reconstructions",
}


@pytest.mark.parametrize(
    "model",
    [("markovian_hvae", "model.latent_dim=3"), ("ladder_vae",), ("markovian_hvae", "chain=noised_data")],
)
def test_a_run_draws_every_figure(tmp_path, model):
    name, *settings = model
    noised = "chain=noised_data" in settings
    quick = ["denoiser=mlp"] if noised else []
    options = [option for option in QUICK if option != "callbacks=none" and "encoder" not in option]
    done = call(
        "train.py", f"model={name}", *settings, *options, *quick, *DRAWN, f"hydra.run.dir={tmp_path}/run"
    )
    assert done.status == 0, done.err
    drawn = {path.stem: path for path in (tmp_path / "run" / "figures").glob("*.png")}
    assert set(drawn) == FIGURES - ({"latents"} if noised else set()) | (set() if noised else {"usage"})
    for figure in ("latents_layers", "layer_kl", "frozen_layers"):
        assert 2_000 < drawn[figure].stat().st_size < 300_000
        assert min(imread(drawn[figure]).shape[:2]) > 250


def test_another_model_is_refused(tmp_path):
    done = call("train.py", *QUICK, "callbacks=hierarchy", f"hydra.run.dir={tmp_path}/run")
    assert "VAE is none" in refusal(done)


def test_layers_from_all_over():
    assert spread_over(3, 6) == [0, 1, 2]
    assert spread_over(100, 4) == [0, 33, 66, 99]
    assert spread_over(100, 1) == [99]


def test_the_bars_are_the_layers_from_the_data_upwards():
    figure = bars([3.0, 1.0, -0.25], "t", "test")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [3.0, 1.0, -0.25]
    assert axes.get_title().endswith("test set: 3.75 nats in all")
    assert len(bars([1.0] * 100, "t", "val").axes[0].patches) == 100


def test_a_panel_for_each_layer():
    zs = [torch.randn(20, size) for size in (1, 2, 5, 3)]
    figure = panels(zs, torch.arange(20) % 10, [1, 2, 7, 9])
    assert [axes.get_title() for axes in figure.axes] == [
        f"$z_{{{number}}}$: {size} latents" for number, size in ((1, 1), (2, 2), (7, 5), (9, 3))
    ]
    assert len(figure.legends[0].get_texts()) == 10


def test_rows_share_what_is_kept():
    config = smaller(composed("model=hierarchical_vae", "model.latent_dims=[3,2,2]"))
    model = instantiate(config.module).model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        images = frozen_rows(model, [0, 1, 2, 3], 5).unflatten(0, (4, 5))
    spreads = images.var(1).flatten(1).mean(1)
    assert spreads[3] < 1e-12 < spreads[2]
    figure = rows(images[:3].flatten(0, 1), [0, 1, 2], 5)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "none kept",
        "top 1 kept",
        "top 2 kept",
    ]


def test_the_usage_of_the_top_layer_is_called_so():
    figure = usage.bars([torch.tensor([1.0, 3.0])], torch.ones(4), [2])
    assert figure.axes[0].get_title() == "KL, layer 2: 4.00 nats in all"
