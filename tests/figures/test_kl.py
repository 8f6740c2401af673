"""The KL of each latent and of each layer."""

import json

import pytest
import torch
from commands import QUICK, call, refusal
from hydra.utils import instantiate
from parts import composed, examples, smaller

from latentlab.evaluation import kl_per_latent
from latentlab.figures import layer_kl
from latentlab.figures.kl import layer_bars, usage_bars
from latentlab.protocols import Threshold

FIGURES = {"latents_layers", "layer_kl", "frozen_layers"}
OTHERS = ("latents", "samples", "sample_means", "reconstructions", "usage")


def model_and_x(name):
    model = instantiate(smaller(composed(f"model={name}", "data=binarised_digits")).module).model.eval()
    return model, model.observe(examples(Threshold()))


@pytest.mark.parametrize("name, parts", [("vae", 3), ("conditional_vae", 3), ("categorical_vae", 3)])
def test_the_kls_of_the_latents_add_up_to_that_of_the_layer(name, parts):
    model, x = model_and_x(name)
    with torch.no_grad():
        (kl,) = kl_per_latent(model, x).values()
        assert kl.shape == (6, parts)
        torch.testing.assert_close(kl.sum(1), model.terms(x)["kl"])


@pytest.mark.parametrize("name", ["mog_vae", "vamp_vae", "flow_vae", "autoencoder"])
def test_a_kl_that_is_not_a_sum_over_latents_is_left_out(name):
    model, x = model_and_x(name)
    with torch.no_grad():
        assert kl_per_latent(model, x) == {}


def test_the_panels_of_usage():
    figure = usage_bars({1: torch.tensor([1.0, 3.0])}, torch.tensor([1.0, 0.5, 1e-4, 0.0]))
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [3.0, 1.0]
    assert right.get_title() == "active units: 2 of 4" and left.get_title() == "KL: 4.00 nats in all"
    figure = usage_bars({2: torch.tensor([1.0, 3.0])}, torch.ones(4))
    assert figure.axes[0].get_title() == "KL, layer 2: 4.00 nats in all"


def test_the_bars_are_the_layers_from_the_data_upwards():
    figure = layer_bars([3.0, 1.0, -0.25], "t")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [3.0, 1.0, -0.25]
    assert axes.get_title().endswith("test set: 3.75 nats in all")
    assert len(layer_bars([1.0] * 100, "t").axes[0].patches) == 100


@pytest.mark.parametrize(
    "settings",
    [
        [
            "model=ladder_vae",
            "model.rungs.latent_dims=[3,2]",
            "model.rungs.widths=[8,4]",
            "decoder.hidden=[8]",
        ],
        ["model=markovian_hvae", "chain=noised_data", "denoiser=mlp", "denoiser.width=8", "model.levels=2"],
    ],
)
def test_a_run_of_a_hierarchy_draws_its_layers(tmp_path, settings, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "latentlab.figures.kl.layer_bars", lambda *given: seen.append(given) or layer_bars(*given)
    )
    options = [option for option in QUICK if option not in ("callbacks=none", "encoder.hidden=[16]")]
    options += ["trainer.log_every_n_steps=1", "data.val_size=1400", "figures.latents_layers.max_layers=1"]
    options += [f"figures.{name}=null" for name in OTHERS]
    done = call("train.py", *settings, *options, f"hydra.run.dir={tmp_path}")
    assert done.status == 0, done.err
    assert {path.stem for path in (tmp_path / "figures").iterdir()} - {"kl_by_unit"} == FIGURES
    summary = json.loads((tmp_path / "summary.json").read_text())
    ((kls, _),) = seen
    assert kls == [summary["test/kl_1"], summary["test/kl_2"]]  # to the last digit


def test_pixels_as_latents_are_not_projected():
    figures = composed("model=markovian_hvae", "chain=noised_data").figures
    assert figures.latents is None and figures.usage is None and figures.latents_layers is not None


def test_a_model_without_layers_is_refused(tmp_path):
    options = [option for option in QUICK if option != "callbacks=none"]
    said = refusal(call("train.py", *options, "figures=hierarchy", f"hydra.run.dir={tmp_path}/run"))
    assert "model=hierarchical_vae" in said and "~figures.latents_layers" in said


def test_layer_kl_takes_any_batches():
    model, _ = model_and_x("hierarchical_vae")
    assert layer_kl(model, [examples(Threshold(), 60)]).axes[0].get_title().startswith("KL of each layer")
