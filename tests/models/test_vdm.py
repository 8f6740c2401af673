"""The variational diffusion model: its likelihood, its bound against the Markovian chain, its options."""

from functools import partial
from itertools import pairwise
from math import exp, log

import pytest
import pytorch_lightning as pl
import torch
from gaussian_diffusion import Wavy
from oracles import Z_MAX, all_binary_images, largest_z
from torch.distributions import Independent, Normal
from torch.optim import Adam
from torch.optim.lr_scheduler import ConstantLR

from latentlab import evaluation
from latentlab.cli import report as reports
from latentlab.data import Digits, Images, Splits
from latentlab.distributions import LevelNormal
from latentlab.errors import UserError
from latentlab.likelihoods import NoisedLikelihood
from latentlab.lit import GradientModule
from latentlab.models.vdm import VDM, least_noise
from latentlab.objectives import VLB
from latentlab.protocols import Continuous, Dequantised, Discrete, Dynamic, FourBit, Real, Static, Threshold
from latentlab.schedules import (
    CosineSchedule,
    LearnedSchedule,
    LinearBetaSchedule,
    LinearSchedule,
    alpha,
    sigma,
)


def tiny(schedule=None, protocol=None, x_shape=(1, 1, 2), **options):
    """A VDM in float64 with so much noise in z_0 that x stays uncertain."""
    schedule = schedule or LinearSchedule(-1.0, 2.0)
    settings = {"eval_steps": [2, 5], "sample_steps": 4} | options
    made = VDM(
        schedule, lambda shape, **ends: Wavy(shape), protocol or Threshold(), x_shape=x_shape, **settings
    )
    return made.double()


# -- p(x|z_0)


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("gamma", [-13.3, -5.0, 1.0])
def test_the_likelihood_sums_to_one_over_the_levels(levels, gamma):
    z = 3 * torch.randn(7, 1, 2, 2, dtype=torch.float64)
    values = torch.arange(levels).double() / (levels - 1)
    px = NoisedLikelihood((1, 2, 2), levels, gamma)(z).base_dist
    scores = px.log_prob(values.view(-1, 1, 1, 1, 1).expand(-1, 7, 1, 2, 2))
    torch.testing.assert_close(scores.logsumexp(0), torch.zeros_like(z), rtol=0, atol=1e-10)
    torch.testing.assert_close((scores.exp() * values.view(-1, 1, 1, 1, 1)).sum(0), px.mean)


@pytest.mark.parametrize("levels", [2, 256])
def test_the_likelihood_is_proportional_to_the_normal_of_each_level(levels):
    gamma = torch.tensor(-6.0, dtype=torch.float64)
    z = torch.linspace(-1.2, 1.2, 9, dtype=torch.float64).view(9, 1, 1, 1)
    places = alpha(gamma) * torch.linspace(-1, 1, levels, dtype=torch.float64)
    scores = Normal(places, sigma(gamma)).log_prob(z)
    expected = scores.flatten(0, 2).log_softmax(-1)
    px = NoisedLikelihood((1, 1, 1), levels, -6.0)(z)
    for level in (0, levels // 2, levels - 1):
        x = torch.full_like(z, level / (levels - 1))
        torch.testing.assert_close(px.log_prob(x), expected[:, level], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.1, 0.3, 2.0])
def test_draws_of_levels_have_their_probabilities(scale):
    levels = torch.arange(5).double() / 4
    q = LevelNormal(torch.tensor([-0.3, 0.1, 0.62], dtype=torch.float64), scale, levels=5)
    drawn = q.sample((20_000,))
    assert drawn.shape == (20_000, 3) and set(drawn.unique().tolist()) <= set(levels.tolist())
    shares = (drawn[..., None] == levels).double()
    exact = q.log_prob(levels[:, None]).exp().T
    open_ended = (exact > 1e-3) & (
        exact < 1 - 1e-3
    )  # the others are drawn too seldom, or always, to have an error
    assert largest_z(shares[:, open_ended], exact[open_ended]) < Z_MAX
    torch.testing.assert_close(shares.mean(0), exact, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("protocol", "gamma_min", "nats"),
    [(Threshold(), -13.3, 1e-9), (Threshold(), -6.0, 1e-9), (Discrete(), -13.3, 0.02)],
)
def test_the_least_noise_leaves_pixels_certain(protocol, gamma_min, nats):
    """At the paper's -13.3, 256 levels are 6 standard deviations apart. Two levels need less."""
    model = tiny(LinearSchedule(gamma_min, 5.0), protocol, x_shape=(1, 16, 16)).float()
    x = protocol(torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8), torch.Generator())
    assert -nats < model.terms(x)["reconstruction"].mean() / 256 <= 0
    assert (model.reconstruct(x) - x).abs().mean() < nats


# -- The bound


def chain_elbo(model, x, steps):
    """Return one estimate of the bound of the chain z_0, ..., z_1, drawn forwards and scored backwards, (N,)."""
    diffusion = model.diffusion
    times = torch.arange(steps + 1).double() / steps
    gammas = diffusion.noise_schedule(times).gamma
    v = 2 * x - 1
    z = [alpha(gammas[0]) * v + sigma(gammas[0]) * torch.randn_like(v)]
    log_q = Independent(Normal(alpha(gammas[0]) * v, sigma(gammas[0])), 3).log_prob(z[0])
    for low, high in pairwise(gammas):
        factor = alpha(high) / alpha(low)
        step = Independent(Normal(factor * z[-1], (sigma(high) ** 2 - (factor * sigma(low)) ** 2).sqrt()), 3)
        z.append(step.sample())
        log_q = log_q + step.log_prob(z[-1])
    log_p = Independent(Normal(torch.zeros_like(v), 1.0), 3).log_prob(z[-1])
    for i in range(steps, 0, -1):
        t, s = (times[j].expand(len(x)) for j in (i, i - 1))
        log_p = log_p + diffusion.reverse(z[i], t, s).log_prob(z[i - 1])
    return model.likelihood(z[0]).log_prob(x) + log_p - log_q


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("kind", [LinearSchedule, CosineSchedule])
def test_the_bound_is_that_of_the_markovian_chain(kind, steps):
    model = tiny(kind(-1.0, 2.0), steps=steps)
    images = all_binary_images((1, 1, 2))
    x = images.repeat(10_000, 1, 1, 1)
    with torch.no_grad():
        terms = model.terms(x)["elbo"].view(-1, len(images))
        chain = chain_elbo(model, x, steps).view(-1, len(images))
    assert largest_z(terms - chain, torch.zeros(len(images), dtype=torch.float64)) < Z_MAX


def test_the_bound_is_below_the_log_likelihood_which_sums_to_one():
    """p(x) = E[p(x|z_0)] over ancestral draws."""
    model, images = tiny(steps=3), all_binary_images((1, 1, 2))
    with torch.no_grad():
        z_0 = model.diffusion.sample(100_000, steps=3)
        likelihoods = model.likelihood(z_0[:, None]).log_prob(images).exp()  # (n, 4)
        bounds = model.terms(images.repeat(10_000, 1, 1, 1))["elbo"].view(-1, 4)
    torch.testing.assert_close(likelihoods.sum(1), torch.ones(100_000, dtype=torch.float64))
    gap = likelihoods.mean(0).log() - bounds.mean(0)
    assert (gap > 5 * bounds.std(0) / 100).all()


@pytest.mark.parametrize("samples", [1, 3])
def test_terms_add_up(samples):
    model = tiny(schedule=LearnedSchedule(-1.0, 2.0, sigmoids=4))
    terms = model.test_terms(torch.ones(5, 1, 1, 2).double(), samples=samples)
    assert all(term.shape == (5,) for term in terms.values())
    torch.testing.assert_close(terms["elbo"], terms["reconstruction"] - terms["kl"])
    torch.testing.assert_close(terms["kl"], terms["kl_prior"] + terms["kl_diffusion"])
    assert {name for name in terms if name.startswith("elbo_")} == {"elbo_T2", "elbo_T5"}


def test_other_forms_are_named_and_leave_the_trained_one_out():
    x = torch.ones(5, 1, 1, 2).double()
    assert {"elbo_T2", "elbo_Tinf"} == {
        name for name in tiny(steps=5).test_terms(x) if name.startswith("elbo_")
    }
    assert not [name for name in tiny(steps=5).terms(x) if name.startswith("elbo_")]


def test_forms_share_their_draws_and_are_those_of_models_of_as_many_steps():
    x = torch.ones(5, 1, 1, 2).double()
    model = tiny()
    torch.manual_seed(4)
    report = model.test_terms(x)
    model.steps = 5
    torch.manual_seed(4)
    torch.testing.assert_close(model.terms(x)["elbo"], report["elbo_T5"])


def test_draws_of_one_example_are_spread_over_time():
    times = tiny().diffusion.times(4, samples=3)
    assert times.shape == (3, 4)
    for each in (times.T, times.reshape(1, 12)):
        gaps = each.sort(dim=1).values.diff(dim=1)
        torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / each.shape[1]))


def test_every_parameter_gets_a_gradient():
    for steps in (None, 4):
        model = tiny(schedule=LearnedSchedule(-1.0, 2.0, sigmoids=4), steps=steps)
        model.terms(torch.ones(5, 1, 1, 2).double())["elbo"].mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name


# -- What every model offers


def test_samples_and_means_of_a_seed_share_their_path():
    model = tiny(protocol=Discrete())
    torch.manual_seed(5)
    z_0 = model.diffusion.sample(6, steps=4)
    torch.manual_seed(5)
    means = model.generate(6, mean=True)
    torch.testing.assert_close(means, model.decode(z_0.flatten(1)))
    samples = model.generate(6, steps=9)
    assert samples.shape == means.shape == (6, 1, 1, 2)
    assert ((samples * 255).round() / 255 == samples).all()


def test_latents_are_images_with_the_least_noise():
    model, x = tiny(), torch.ones(20_000, 1, 1, 2).double()
    z = model.encode(x)
    gamma = torch.tensor(-1.0, dtype=torch.float64)
    assert z.shape == (20_000, model.latent_dim)
    assert largest_z(z, model.posterior_mean(x)[0]) < Z_MAX
    assert largest_z((z - alpha(gamma)) ** 2, sigma(gamma).expand(2) ** 2) < Z_MAX
    torch.testing.assert_close(model.posterior_mean(0 * x), -model.posterior_mean(x))


# -- Real vectors


class Linear(torch.nn.Module):
    """The residual of the optimal noise for x ~ N(0, 0.25 I)."""

    def forward(self, z_t, gamma_t):
        noise = gamma_t.sigmoid().view(-1, 1)
        return (noise.sqrt() / (0.25 * (1 - noise) + noise) - 1) * z_t


@pytest.mark.parametrize("schedule", [LinearSchedule(gamma_max=12.0), LinearBetaSchedule()])
def test_vectors_have_the_bound_of_their_density(schedule):
    """With the optimal denoiser, the bound in the limit is log N(x; 0, 0.25 I), up to the noise at both ends."""
    model = VDM(schedule, lambda shape, **ends: Linear(), Real(), x_shape=(2,)).double()
    model.check(Real())
    x = 0.5 * torch.randn(20_000, 2, dtype=torch.float64)
    with torch.no_grad():
        terms = model.terms(x)
    exact = Normal(0.0, 0.5).log_prob(x).sum(1)
    gap = (terms["elbo"] - exact).mean().item()
    assert abs(gap) < 4 * (terms["elbo"] - exact).std().item() / len(x) ** 0.5 + 1e-3
    samples = model.generate(3, steps=4)
    assert samples.shape == (3, 2) and model.encode(x[:4]).shape == (4, 2)
    torch.testing.assert_close(model.decode(model.posterior_mean(x)), x)


# -- Its values


@pytest.mark.parametrize("kind", [Threshold, Dynamic, Static, Continuous, Discrete])
def test_the_protocol_sets_the_values_and_the_least_noise(kind):
    model = tiny(LinearSchedule(), kind())
    grey = kind in (Continuous, Discrete)
    assert model.levels == (256 if grey else 2)
    assert model.diffusion.noise_schedule.gamma_min == (-13.3 if grey else -4.0)
    model.check(kind())
    scored = model.scored_as(kind())
    assert scored.levels == model.levels and scored.bits_offset == 0


def test_the_least_noise_keeps_its_ratio_to_the_distance_of_two_values():
    assert tiny(LinearSchedule(), FourBit()).diffusion.noise_schedule.gamma_min == least_noise(16)
    for levels in (16, 100, 256):
        deviation = exp(least_noise(levels) / 2)
        assert 2 / (levels - 1) / deviation == pytest.approx(2 / 255 / exp(-13.3 / 2))


def test_continuous_data_are_the_discrete_ones():
    pixels = torch.arange(256, dtype=torch.uint8)
    protocol = Continuous()
    assert torch.equal(protocol(pixels, None), protocol.counted()(pixels, None))
    assert protocol.counted().name == "discrete" and Dequantised().counted().name == "dequantised"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"protocol": Dequantised()},
            "protocol=dequantised .*choose protocol=discrete",
        ),
        ({"levels": 2}, "model.levels=2: protocol=continuous gives 256 .*null"),
    ],
)
def test_values_that_are_not_scored_are_refused(options, words):
    with pytest.raises(UserError, match=words) as caught:
        tiny(**options).check(Continuous())
    assert "\n" not in str(caught.value)


# -- Under Lightning


class FewDigits(Digits):
    """Digits with a test set of 130 images."""

    def read(self):
        train, test, _ = super().read()
        return Splits(train, Images(test.x[:130], test.y[:130]))


def scored_by(eval_batch_size, samples=1, protocol=None):
    torch.manual_seed(0)
    protocol = protocol or Threshold()
    model = tiny(LinearSchedule(-6.0, 8.0), protocol, x_shape=(1, 28, 28)).float()
    module = GradientModule(model, VLB(), Adam, partial(ConstantLR, total_iters=0), eval_samples=samples)
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, **options)
    trainer.test(module, FewDigits(protocol, eval_batch_size=eval_batch_size), verbose=False)
    return trainer


def results(*args, **options):
    return scored_by(*args, **options).lightning_module.results


def test_the_reported_bounds_do_not_depend_on_the_batch_size():
    one, other = results(50), results(1000)
    assert {"test/elbo", "test/elbo_T2", "test/elbo_T5", "test/kl_prior", "test/kl_diffusion"} < set(one)
    assert one == pytest.approx(other, rel=1e-6)


def test_more_draws_of_an_example_have_less_error():
    one, many = results(130), results(130, samples=8)
    assert many["test/elbo_stderr"] < one["test/elbo_stderr"] / 3
    assert abs(many["test/elbo"] - one["test/elbo"]) < 3 * one["test/elbo_stderr"]


def test_the_estimates_and_the_protocol_of_an_evaluation(tmp_path):
    """Grey data count as discrete and have bits per dimension. There are no active units, as nothing is inferred."""
    trainer = scored_by(130, protocol=Continuous())
    bound, data = trainer.lightning_module.results["test/elbo"], trainer.datamodule
    found = evaluation.estimate(
        trainer.lightning_module.model, data.test_dataloader(), 130, data.protocol, {"elbo": bound}
    )
    assert found == {"bits_per_dim": pytest.approx(-bound / (784 * log(2)))}
    written = reports.conclude_evaluation(trainer, tmp_path, {"model": "vdm", "data": "digits"}, found, {})
    assert written["protocol"] == "discrete" and "remarks" not in written


def test_it_has_no_importance_weighted_likelihood():
    model = scored_by(130).lightning_module.model
    assert evaluation.choose_nll_samples(model, None) == 0
    with pytest.raises(UserError, match=r"nll.samples=5: VDM .* set nll.samples=0"):
        evaluation.choose_nll_samples(model, 5)
