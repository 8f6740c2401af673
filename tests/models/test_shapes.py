"""Shapes of traces, images and codes, for every kind of latent, any number of draws and any shape of the images."""

import json
from math import log

import pytest
import torch
from commands import QUICK, call, refusal
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict
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
    "ddpm denoiser.groups=4 prediction=v weighting=min_snr sampler=ddim model.sample_steps=3",
    "ddpm denoiser.groups=4 model.num_classes=6 model.guidance=1 model.sample_steps=3",
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
            torch.manual_seed(0)
            z = model.sample_latents(2)
            assert z.shape == (2, model.latent_dim)
        if words not in ("autoencoder", "conditional_vae"):  # it draws a label for each image
            torch.manual_seed(0)
            torch.testing.assert_close(model.generate(2, mean=True), model.decode(z))


TINTED = """
import torch
from latentlab.data.images import ImageData, Images, Splits

class Tinted(ImageData):
    name = "Tinted"

    @property
    def shape(self):
        return (3, 8, 6)

    def read(self):
        x = torch.randint(256, (40, *self.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = Images(x, torch.arange(40) % 4)
        return Splits(images, images)
"""
CONFIG = """
defaults:
  - override /protocol@_global_.protocol: discrete
_target_: tinted.Tinted
protocol: ${protocol}
val_size: 10
"""


@pytest.fixture
def tinted(tmp_path, monkeypatch):
    """The options of a command on a user's own data set of 40 colour images."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tinted.py").write_text(TINTED)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "tinted.yaml").write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setenv("LATENTLAB_TRUST", "tinted")
    quick = [word for word in QUICK if not word.startswith("data=")]
    place = f"hydra.run.dir={tmp_path}/run"
    return [f"--config-dir={tmp_path}/conf", "data=tinted", *quick, "trainer.log_every_n_steps=1", place]


def test_a_run_on_colour_images(tmp_path, tinted):
    run = tmp_path / "run"
    trained = call("train.py", *tinted, "model=cnn_vae", "likelihood=categorical", "decoder.channels=[4,4]")
    assert trained.status == 0, trained.err
    config = OmegaConf.load(run / "config.yaml")
    assert config.model.x_shape == config.module.model.x_shape == [3, 8, 6]
    evaluated = call("evaluate.py", f"run={run}", "nll.samples=2", "figures.draw=false")
    assert evaluated.status == 0, evaluated.err
    found = json.loads((run / "evaluation.json").read_text())
    assert found["test/bits_per_dim"] == pytest.approx(-found["test/elbo"] / (3 * 8 * 6 * log(2)))


def test_another_shape_than_that_of_the_data_is_refused(tmp_path, tinted):
    line = refusal(call("train.py", *tinted, "likelihood=categorical", "+model.x_shape=[1,8,6]"))
    assert "model.x_shape=[1, 8, 6]" in line and "[3, 8, 6]" in line
    assert not (tmp_path / "run").exists()
