"""The Markovian hierarchy: it is a VAE with one layer, and a diffusion if its layers are noised data."""

from functools import partial
from math import log

import pytest
import torch
from hydra.utils import instantiate
from oracles import Z_MAX, all_binary_images, largest_z, tiny_vae
from parts import assembled, composed, examples, options, smaller, step, untrained
from torch.distributions import Independent, Normal, kl_divergence

from latentlab.errors import UserError
from latentlab.evaluation import log_likelihood
from latentlab.likelihoods import BernoulliLikelihood
from latentlab.models.chain import MarkovianHVAE, SeparateConditionals, SharedConditionals
from latentlab.models.noising import NoisedData, NoisingConditionals
from latentlab.models.vdm import VDM
from latentlab.nn.denoisers import MLPDenoiser
from latentlab.nn.mlp import MLP
from latentlab.objectives import ELBO, AnalyticELBO
from latentlab.posteriors import DiagonalNormalPosterior, GumbelSoftmaxPosterior
from latentlab.priors import FlowPrior, StandardNormalPrior, VampPrior
from latentlab.protocols import Threshold
from latentlab.schedules import CosineSchedule, LinearSchedule, alpha, sigma

SHAPE = (1, 2, 2)
X = all_binary_images(SHAPE)[[1, 6, 11]]


def network(in_shape, out_shape):
    return MLP(in_shape, out_shape, hidden=(8,), activation=torch.nn.Tanh)


SEPARATE, SHARED = (partial(kind, network=network) for kind in (SeparateConditionals, SharedConditionals))
CHAINS = {
    "learned": (SEPARATE, SEPARATE),
    "shared": (SHARED, SHARED),
    "noising": (partial(NoisingConditionals, noise_schedule=LinearSchedule(-3.0, 3.0)), SHARED),
}
ALL = [*CHAINS, "noised_data"]


def markovian(chain, levels, posterior=DiagonalNormalPosterior, prior=StandardNormalPrior):
    """The real model with small networks, in float64."""
    up, down = CHAINS[chain]
    return MarkovianHVAE(
        2, levels, network, network, posterior, BernoulliLikelihood, prior, up, down, SHAPE
    ).double()


def noised(levels, prior=StandardNormalPrior):
    """Noised data with a small denoiser, in float64."""
    denoiser = partial(MLPDenoiser, width=8, blocks=1, embedding=8)
    schedule = CosineSchedule(-3.0, 3.0)
    return NoisedData(levels, network, BernoulliLikelihood, prior, schedule, denoiser, SHAPE).double()


def tiny(chain, levels=3, **parts):
    """The real model, small, with random weights."""
    model = noised(levels, **parts) if chain == "noised_data" else markovian(chain, levels, **parts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def flat_gradient(objective, model):
    gradients = torch.autograd.grad(objective(model, X).sum(), list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("chain", ["learned", "shared"])
def test_with_one_layer_it_is_the_vae(chain):
    torch.manual_seed(3)
    vae = tiny_vae(latent_dim=2)
    torch.manual_seed(3)
    model = markovian(chain, levels=1)
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), model.parameters(), strict=True))
    found = []
    for each in (vae, model):
        torch.manual_seed(4)
        gradients = [flat_gradient(objective(2), each) for objective in (ELBO, AnalyticELBO)]
        with torch.no_grad():
            terms = each.terms(X, samples=3)
            found.append(
                [*terms.values(), *gradients, each.generate(5), each.encode(X), each.posterior_mean(X)]
            )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def diffusion(steps=4):
    """A diffusion model of T steps, and a hierarchy of T + 1 layers with the same parts."""
    denoiser = partial(MLPDenoiser, width=8, blocks=1, embedding=8)
    vdm = VDM(
        LinearSchedule(-4.0, 3.0), denoiser, Threshold(), steps=steps, log_odds=False, x_shape=SHAPE
    ).double()
    with torch.no_grad():
        for parameter in vdm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model = NoisedData(
        steps + 1,
        network,
        lambda network, in_shape, x_shape: vdm.likelihood,
        StandardNormalPrior,
        vdm.diffusion.noise_schedule,
        lambda *shape, **range: vdm.diffusion.denoiser,
        SHAPE,
    ).double()
    return vdm, model


@torch.no_grad()
def test_noised_data_has_the_terms_of_the_diffusion_model_one_by_one():
    steps = 4
    vdm, model = diffusion(steps)
    assert {id(p) for p in model.parameters()} == {id(p) for p in vdm.parameters()}
    data, trace = 2 * X - 1, model(X)
    for layer in range(steps):
        t = torch.tensor([(layer + 1) / steps]).double()
        gamma = vdm.diffusion.noise_schedule(t).gamma
        eps = (trace.z[layer + 1][0] - alpha(gamma) * data) / sigma(gamma)
        exact = vdm.diffusion.loss_at(data, t.expand(len(X)), steps, eps) / steps
        torch.testing.assert_close(trace.layers[layer].kl()[0], exact, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(trace.layers[-1].kl()[0], vdm.diffusion.prior_kl(data))
    torch.testing.assert_close(trace.log_px_z[0], vdm.likelihood(trace.z[0][0]).log_prob(X))


@torch.no_grad()
def test_noised_data_has_the_bound_of_the_diffusion_model():
    vdm, model = diffusion()
    x = X[:1].expand(20_000, *SHAPE)
    theirs, ours, by_draws = vdm.terms(x)["elbo"], AnalyticELBO()(model, x), ELBO()(model, x)
    # The times in a batch of the diffusion are spread evenly, so that the estimated error is if anything too large.
    zero = torch.zeros(()).double()
    assert largest_z(theirs - ours, zero) < Z_MAX
    assert largest_z(theirs - by_draws, zero) < Z_MAX
    assert largest_z(by_draws - ours, zero) < Z_MAX


@torch.no_grad()
def test_noise_drawn_from_the_top_is_the_chain_that_adds_it():
    model = tiny("noised_data", levels=4)
    trace, schedule = model(X, samples=5), model.noise_schedule
    gammas = schedule(model.times).gamma
    before, scale_before, log_q = (2 * X - 1).expand(5, *X.shape), torch.zeros(()).double(), 0.0
    factor_before = torch.ones(()).double()
    for z, gamma in zip(trace.z, gammas, strict=True):
        factor = alpha(gamma) / factor_before
        scale = (sigma(gamma) ** 2 - factor**2 * scale_before**2).sqrt()
        log_q = log_q + Independent(Normal(factor * before, scale), 3).log_prob(z)
        before, scale_before, factor_before = z, sigma(gamma), alpha(gamma)
    torch.testing.assert_close(trace.log_qz_x, log_q)
    # The draws have the schedule's marginal.
    drawn = model(X[:1], samples=20_000).z[1][:, 0]
    mean = alpha(gammas[1]) * (2 * X[0] - 1)
    assert largest_z(drawn, mean) < Z_MAX
    assert largest_z((drawn - mean) ** 2, (sigma(gammas[1]) ** 2).expand(SHAPE)) < Z_MAX


@pytest.mark.parametrize("chain", ALL)
@torch.no_grad()
def test_the_two_bounds_agree_and_the_likelihood_is_above_them(chain):
    model = tiny(chain)
    x = X[:1].expand(4_000, *SHAPE)
    gap = ELBO(4)(model, x) - AnalyticELBO(4)(model, x)
    assert largest_z(gap, torch.zeros(()).double()) < Z_MAX
    estimate = log_likelihood(model, X[:1], samples=20_000, chunk=5_000)
    assert estimate > ELBO()(model, x).mean()


@pytest.mark.parametrize("chain", ALL)
def test_layers_whose_conditional_does_not_move_with_them_have_their_kl_in_closed_form(chain):
    layers = tiny(chain)(X, samples=2).layers
    below = chain != "noised_data"
    assert [layer.coupled for layer in layers] == [below, below, False]
    for layer in layers:
        if not layer.coupled:
            torch.testing.assert_close(layer.kl(), kl_divergence(layer.q, layer.p).expand_as(layer.log_q))


@pytest.mark.parametrize("chain", ALL)
def test_shapes_and_layers_that_are_given(chain):
    model = tiny(chain)
    sizes = {"noised_data": SHAPE}.get(chain, (2,))
    trace = model(X, samples=4)
    assert [tuple(z.shape) for z in trace.z] == [(4, 3, *sizes)] * 3
    again = model(X, samples=4, zs=trace.z)
    torch.testing.assert_close(again.log_w, trace.log_w, rtol=0, atol=0)
    alone = model(X[:1], samples=4, zs=[z[:, :1] for z in trace.z])
    torch.testing.assert_close(alone.terms()["elbo"], trace.terms()["elbo"][:1])
    zs = model.descend(5)
    kept = model.descend(5, zs[1:])
    assert torch.equal(kept[1], zs[1]) and torch.equal(kept[2], zs[2]) and not torch.equal(kept[0], zs[0])
    z = model.encode(X)
    assert z.shape == model.posterior_mean(X).shape == (3, model.latent_dim)
    assert model.decode(z).shape == model.reconstruct(X).shape == model.generate(3).shape == (3, *SHAPE)


def test_a_shared_network_reads_the_step():
    few, many = ([p.shape for p in tiny("shared", levels).down.parameters()] for levels in (2, 4))
    assert [shape[0] for shape in few] == [shape[0] for shape in many]
    assert len(list(tiny("learned", 4).down.parameters())) == 3 * len(few)
    z = torch.randn(3, 2).double()
    means = [down(z).mean for down in tiny("shared", 4).down]
    assert not torch.allclose(means[0], means[1]) and not torch.allclose(means[1], means[2])


@pytest.mark.parametrize("chain, below", [("learned", (2,)), ("noising", (2,)), ("noised_data", SHAPE)])
def test_pseudo_inputs_live_where_the_top_is_drawn_from(chain, below):
    model = tiny(chain, prior=partial(VampPrior, num_components=3))
    assert model.prior.pseudo_inputs.shape == (3, *below)
    assert model.prior.bounds == ((0.0, 1.0) if below == SHAPE else (None, None))
    model.initialise(X)
    assert model(X).log_pz.isfinite().all()


@torch.no_grad()
def test_a_vamp_prior_of_added_noise_is_the_marginal_given_the_first_layer():
    model = tiny("noising", levels=4, prior=partial(VampPrior, num_components=3, spread=0.0))
    z = torch.randn(5, 1, 2).double()
    gamma = torch.tensor(3.0).double()  # gamma(1)
    components = Independent(Normal(alpha(gamma) * model.prior.pseudo_inputs, sigma(gamma)), 1)
    expected = components.log_prob(z).logsumexp(-1) - log(3)
    torch.testing.assert_close(model.prior().log_prob(z[:, 0]), expected)
    fresh = markovian("noising", 4, prior=partial(VampPrior, num_components=3, spread=0.0))
    fresh.initialise(X)
    torch.testing.assert_close(fresh.prior.pseudo_inputs, fresh.up[0](X).mean)


@pytest.mark.parametrize("chain", options("chain"))
def test_every_chain_of_the_command_line_trains_every_parameter(chain):
    config = smaller(composed("model=markovian_hvae", f"chain={chain}", "denoiser=mlp", "model.levels=4"))
    module = instantiate(config.module)
    # A denoiser's last layers start at zero, so that the layers before them move from the third step on.
    gradients = [step(module, examples(instantiate(config.protocol))) for _ in range(3)]
    assert untrained(gradients[-1]) == []
    assert module.model.learned_inference == (chain != "noised_data")


@pytest.mark.parametrize(
    "objective",
    sorted(
        set(options("objective"))
        - {"reconstruction", "log_prior", "semi_supervised", "vlb", "latent_diffusion"}
    ),
)
def test_every_objective_trains_every_parameter(objective):
    config = assembled(model="markovian_hvae", objective=objective)
    module = instantiate(config.module)
    assert untrained(step(module, examples(instantiate(config.protocol)))) == []


def test_parts_that_do_not_go_together_are_refused():
    for chain in ("noised_data", "noising"):
        with pytest.raises(UserError, match=r"model\.levels=2"):
            tiny(chain, levels=1)
    with pytest.raises(UserError, match="prior=standard_normal"):
        tiny("noised_data", prior=FlowPrior)
    with pytest.raises(UserError, match="one-hot"):
        tiny("noising", posterior=GumbelSoftmaxPosterior)


@pytest.mark.parametrize("levels", ["0", "1.5"])
def test_the_number_of_layers_is_checked(levels):
    with pytest.raises(UserError, match=r"model\.levels"):
        composed("model=markovian_hvae", f"model.levels={levels}")
