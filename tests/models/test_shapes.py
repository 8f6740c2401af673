"""Shapes of traces, images and codes, for every kind of latent and any number of draws."""

import pytest
import torch
from hydra.utils import instantiate
from parts import composed, examples, smaller

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
