"""Annealed importance sampling against exact likelihoods.

The mean weight is unbiased for p(x), so that z-tests compare w / p(x) with 1.
"""

import json

import pytest
import torch
from commands import call, refusal
from linear_gaussian import LinearGaussian
from oracles import Z_MAX, all_binary_images, exact_log_likelihood, largest_z, tiny_vae
from parts import assembled, built, examples
from torch import Tensor

from latentlab import ais
from latentlab.ais import AIS, LADDERS, STARTS
from latentlab.batch import Batch
from latentlab.draws import reproducible
from latentlab.errors import UserError
from latentlab.evaluation import log_likelihood
from latentlab.protocols import Threshold

SHORT = AIS(chains=1, steps=10, leapfrog=2)


class Generative(LinearGaussian):
    """A linear-Gaussian chain that draws latents."""

    def sample_latents(self, n: int) -> Tensor:
        zs = [torch.zeros(n, 0).double()]
        for conditional in reversed(self.p):
            zs.insert(0, conditional(zs[0]).sample())
        return torch.cat(zs[1:], dim=1)


def chain(levels: int) -> Generative:
    torch.manual_seed(levels)
    return Generative([2, *[1] * levels]).requires_grad_(False)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("start", STARTS)
def test_against_the_exact_likelihood(levels, start):
    model, x = chain(levels), torch.tensor([[0.5, -1.0], [1.0, 2.0]]).double()
    found = AIS(1, 10, 2, STARTS[start]).forward(model, x.repeat(300, 1)).log_px.view(300, 2)
    log_ratios = found - model.log_likelihood(x)
    assert largest_z(log_ratios.exp(), torch.ones(2)) < Z_MAX
    assert -0.7 < log_ratios.mean() < 0.03


@pytest.mark.parametrize("ladder", LADDERS)
def test_one_temperature_is_importance_weighting(ladder):
    model, x = chain(2), torch.randn(3, 2).double()
    one = AIS(chains=8, steps=1, ladder=LADDERS[ladder])
    with reproducible(0, x.device):
        found = ais.log_likelihood(model, x, one)
    with reproducible(0, x.device):
        model(x)  # the shapes of the latents are read from a draw
        torch.testing.assert_close(found, log_likelihood(model, x, 8))


def wrong_encoder():
    """A VAE whose q(z|x) is far from p(z|x)."""
    vae = tiny_vae().requires_grad_(False)
    vae.posterior.network.layers[-1].bias.copy_(torch.tensor([5.0, 0.0]))
    return vae


def test_a_wrong_encoder_against_quadrature():
    vae, x = wrong_encoder(), all_binary_images((1, 2, 2))
    exact = exact_log_likelihood(vae, x)
    with torch.no_grad():
        assert (log_likelihood(vae, x, 1000) - exact).mean() < -4
    found = AIS(chains=16, steps=50, leapfrog=3).forward(vae, x)
    assert abs((found.log_px - exact).mean()) < 0.5
    # The stated error of the mean over the images. The estimate fails at 4.5 of them once in 150,000 times.
    assert abs((found.log_px - exact).mean()) < Z_MAX * found.variance.sum().sqrt() / len(x)


def test_bounds_from_both_sides():
    model = chain(2)
    with torch.no_grad():
        z = model.sample_latents(500)
        x = model.p[0](z[:, :1]).sample()
    below, above = AIS(1, 10, 2, STARTS["prior"]).both(model, x, z)
    exact = model.log_likelihood(x)
    assert below.log_px.mean() < exact.mean() < above.log_px.mean() < below.log_px.mean() + 0.5
    assert largest_z((exact - above.log_px).exp(), torch.ones(())) < Z_MAX


def test_an_estimate_depends_on_its_block_alone():
    model = built(assembled("flow_vae")).model.eval()
    x, y = examples(Threshold(), n=60)
    together = ais.joined(ais.estimates(model, [Batch(x, y)], SHORT))
    apart = ais.joined(ais.estimates(model, [Batch(x[:50], y[:50]), Batch(x[50:], y[50:])], SHORT))
    torch.testing.assert_close(together.log_px, apart.log_px, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "start"),
    [
        ("conditional_vae", "prior"),
        ("ladder_vae", "posterior"),
        ("markovian_hvae", "prior"),
    ],
)
def test_models_are_bounded_on_simulated_images(model, start):
    made = built(assembled(model)).model.eval()
    sampler = AIS(chains=2, steps=10, leapfrog=2, start=STARTS[start])
    ((below, above),) = ais.simulated(made, [examples(Threshold(), n=8)], sampler)
    assert 0 < (above.log_px - below.log_px).mean() < 20


@pytest.mark.parametrize(
    ("config", "word"),
    [(assembled("categorical_vae"), "discrete"), (assembled("vdm"), "latents")],
    ids=["discrete", "diffusion"],
)
def test_models_that_chains_cannot_move_in_are_refused(config, word):
    with pytest.raises(UserError, match=f"{word}.*nll.method=importance"):
        ais.check(built(config).model)


def test_the_measure_of_a_run(small, tmp_path):
    words = ("nll.method=ais", "nll.examples=9", "nll.steps=3", "nll.chains=2", "nll.bdmc=7", "nll.samples=4")
    done = call("evaluate.py", f"run={small}", *words, "figures.draw=false", f"output_dir={tmp_path}")
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["test/nll_ais"] > 0 and found["test/bdmc_lower"] < found["test/bdmc_upper"]
    assert (
        "test/nll_ais_stderr" in found
        and found["settings"]["nll.examples"] == 9
        and found["settings"]["nll.start"] == "posterior"
    )


@pytest.mark.parametrize(
    "words", ["nll.method=exact", "nll.method=ais nll.examples=999999", "nll.bdmc=-1", "nll.examples=9"]
)
def test_settings_out_of_range_are_refused(small, words):
    assert words.split()[-1] in refusal(call("evaluate.py", f"run={small}", *words.split()))
