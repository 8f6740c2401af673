"""The KL of each latent, and the units that are active."""

import pytest
import torch
from hydra.utils import instantiate
from parts import composed, examples, smaller

from latentlab.figures.kl import kl_per_latent, usage_bars


def model_and_x(name):
    module = instantiate(smaller(composed(f"model={name}", "data=binarised_digits")).module).eval()
    return module.model, module.model.observe(examples(instantiate(composed().protocol)))


@pytest.mark.parametrize("name, parts", [("vae", 3), ("conditional_vae", 3), ("categorical_vae", 3)])
def test_the_parts_of_the_kl_add_up_to_it(name, parts):
    model, x = model_and_x(name)
    with torch.no_grad():
        (kl,) = kl_per_latent(model, x).values()
        assert kl.shape == (6, parts)
        torch.testing.assert_close(kl.sum(1), model.terms(x)["kl"])


@pytest.mark.parametrize("name", ["mog_vae", "vamp_vae", "flow_vae", "autoencoder"])
def test_a_kl_without_parts_is_left_out(name):
    model, x = model_and_x(name)
    with torch.no_grad():
        assert kl_per_latent(model, x) == {}


def test_the_panels():
    figure = usage_bars({1: torch.tensor([1.0, 3.0])}, torch.tensor([1.0, 0.5, 1e-4, 0.0]))
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [3.0, 1.0]
    assert right.get_title() == "active units: 2 of 4" and left.get_title() == "KL: 4.00 nats in all"
