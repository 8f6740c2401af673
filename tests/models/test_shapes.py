"""Shapes of traces, images and codes, for every kind of latent, any number of draws and any shape of the images."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import open_dict
from parts import composed, examples, never_trained, smaller

from latentlab.batch import Batch

MODELS = [
    "vae",
    "mog_vae",
    "vamp_vae",
    "flow_vae",
    "cnn_vae",
    "categorical_vae",
    "conditional_vae",
    "linear_vae",
]


@pytest.fixture(scope="module", params=MODELS)
def module(request):
    data = "continuous" if request.param == "linear_vae" else "binarised"
    return instantiate(smaller(composed(f"model={request.param}", f"data={data}_digits")).module).eval()


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_traces(module, samples):
    model, x = module.model, module.model.observe(examples(instantiate(composed().protocol), n=4))
    with torch.no_grad():
        trace = model(x, samples=samples)
        again = model(x, samples=samples, zs=trace.z)
    assert trace.log_w.shape == (samples, 4) and [z.shape[:2] for z in trace.z] == [(samples, 4)]
    assert trace.px.batch_shape == (samples, 4) and trace.px.event_shape == (1, 28, 28)
    torch.testing.assert_close(again.log_w, trace.log_w)


@pytest.mark.parametrize("n", [1, 4])
def test_images_and_codes(module, n):
    model, x = module.model, module.model.observe(examples(instantiate(composed().protocol), n=n))
    with torch.no_grad():
        assert model.generate(n).shape == model.generate(n, mean=True).shape == (n, 1, 28, 28)
        assert model.reconstruct(x).shape == (n, 1, 28, 28)
        codes = model.encode(x)
        assert codes.shape == model.posterior_mean(x).shape == (n, model.latent_dim)
        assert model.decode(codes).shape == (n, 1, 28, 28)


def test_the_inference_parameters_are_those_that_q_depends_on(module):
    model, x = module.model, module.model.observe(examples(instantiate(composed().protocol)))
    (-model(x).log_qz_x.sum()).backward()
    own = {id(parameter) for parameter in model.inference_parameters()}
    moved = {id(p) for p in model.parameters() if p.grad is not None and p.grad.any()}
    assert moved and moved <= own


# -- Images of other shapes

SHAPE = (3, 7, 10)
ANY = [
    *MODELS,
    "autoencoder",
    "hierarchical_vae",
    "ladder_vae",
    "conv_ladder_vae",
    "markovian_hvae",
    "markovian_hvae chain=noised_data denoiser.groups=4",
    "vdm denoiser.groups=4",
    "latent_vdm",
    "vae encoder=resnet decoder=resnet",
    "vae encoder=gated_mlp decoder=gated_mlp",
    "vae likelihood=categorical protocol=discrete",
    "cnn_vae likelihood=discretised_logistic protocol=discrete",
    "vae likelihood=continuous_bernoulli protocol=continuous",
    "vae likelihood=gaussian_per_pixel protocol=continuous",
    "vae likelihood=gaussian_predicted protocol=dequantised",
]


def of_shape(words, shape):
    """The module of a small model for images of a shape, and a batch of random images."""
    config = smaller(composed(*f"model={words}".split()))
    with open_dict(config):
        config.module.model.x_shape = list(shape)
    pixels = torch.randint(256, (6, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(1)
    return instantiate(config.module), Batch(instantiate(config.protocol)(pixels, draws), torch.arange(6))


@pytest.mark.parametrize("words", ANY)
def test_every_model_takes_images_of_any_shape(words):
    module, batch = of_shape(words, SHAPE)
    assert never_trained(module, batch, steps=6) == []
    model, x = module.model.eval(), module.model.observe(batch)
    with torch.no_grad():
        assert all(term.isfinite().all() for term in model.terms(x, samples=2).values())
        assert model.reconstruct(x).shape == (6, *SHAPE)
        if words != "autoencoder":
            assert model.generate(2).shape == (2, *SHAPE)
