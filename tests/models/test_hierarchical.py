"""The bottom-up hierarchies against the linear-Gaussian one, which has its bound and likelihood in closed form."""

from functools import partial
from itertools import pairwise
from math import log

import pytest
import torch
from hydra.utils import instantiate
from linear_gaussian import LinearGaussian
from oracles import Z_MAX, all_binary_images, largest_z, z_scores
from parts import assembled, composed, examples, options, step, untrained
from torch.distributions import kl_divergence

from latentlab.errors import UserError
from latentlab.evaluation import log_likelihood
from latentlab.likelihoods import BernoulliLikelihood, GaussianFixedLikelihood
from latentlab.models.chain import HierarchicalVAE, MarkovianHVAE, SeparateConditionals
from latentlab.models.noising import NoisingConditionals
from latentlab.nn.mlp import MLP, Linear
from latentlab.objectives import ELBO, IWAE, STL, AnalyticELBO, BetaELBO, DReG
from latentlab.posteriors import DiagonalNormalPosterior, FullRankNormalPosterior, GumbelSoftmaxPosterior
from latentlab.priors import StandardNormalPrior, VampPrior
from latentlab.schedules import LinearSchedule, alpha, sigma

VARIANCE = 0.4
X = torch.tensor([0.7, -1.1, 0.4]).double()
IMAGES = all_binary_images((1, 2, 2))[[1, 6, 11]]


def oracle(*sizes, exact=False):
    """The chain of x, z_1, ..., z_L with diagonal normals and a standard normal at the top."""
    chain = LinearGaussian(sizes)
    with torch.no_grad():
        for p in chain.p:
            p.raw.copy_(p.raw.diagonal().diag())
        chain.p[0].raw.fill_(0.0).fill_diagonal_(0.5 * log(VARIANCE))
        chain.p[-1].raw.zero_()
        chain.p[-1].bias.zero_()
        chain.make_posterior_exact()
        if not exact:
            for q in chain.q:
                for parameter in q.parameters():
                    parameter.add_(0.15 * torch.randn_like(parameter))
                q.raw.diagonal().add_(0.4)  # wider than the posterior, so that the weights have a variance
    return chain


LIKELIHOOD = partial(GaussianFixedLikelihood, variance=VARIANCE)


def hierarchy(chain):
    """The hierarchical VAE with the weights of a chain."""
    x_size, *dims = [p.bias.numel() for p in chain.p]
    networks = [Linear] * 4
    model = HierarchicalVAE(
        dims, *networks, FullRankNormalPosterior, LIKELIHOOD, StandardNormalPrior, (x_size,)
    )
    return loaded(model, chain)


@torch.no_grad()
def loaded(model, chain):
    """A model with the weights of a chain, in float64."""
    model.double()
    for q, conditional in zip(chain.q, model.up, strict=True):
        if isinstance(conditional, FullRankNormalPosterior):
            below = q.tril[tuple(torch.tril_indices(*q.tril.shape, offset=-1))]
            assign(conditional, q, [q.tril.diagonal().log(), below])
    for p, conditional in zip(chain.p[1:-1], model.down, strict=True):
        assign(conditional, p, [p.raw.diagonal()])
    assign(model.likelihood, chain.p[0], [])
    return model


def assign(conditional, linear, others):
    """Set an affine network's outputs: the mean, and others that do not depend on the input."""
    layer = conditional.network.layers[0]
    layer.weight.zero_()[: len(linear.bias)].copy_(linear.weight)
    layer.bias.copy_(torch.cat([linear.bias, *others]))


SIZES = {1: (3, 2), 2: (3, 2, 2), 3: (3, 2, 3, 2)}


@pytest.mark.parametrize("levels", [1, 2, 3])
@torch.no_grad()
def test_the_bound_is_the_one_in_closed_form(levels):
    chain = oracle(*SIZES[levels])
    model, x = hierarchy(chain), X.expand(20_000, -1)
    exact = chain.exact_elbo(X)
    assert exact < chain.log_likelihood(X[None])
    assert largest_z(ELBO()(model, x), exact) < Z_MAX
    assert largest_z(AnalyticELBO()(model, x), exact) < Z_MAX
    reconstruction, kls = chain.exact_terms(X)
    terms = model.terms(x)
    found = torch.stack(
        [terms["reconstruction"], *(terms[f"kl_{level}"] for level in range(1, levels + 1))], 1
    )
    assert largest_z(found, torch.stack([reconstruction, *kls])) < Z_MAX


@torch.no_grad()
def test_inference_that_adds_noise_has_the_bound_in_closed_form():
    chain, schedule = oracle(3, 2, 2, 2), LinearSchedule(-3.0, 3.0)
    noising = partial(NoisingConditionals, noise_schedule=schedule)
    gammas = schedule(torch.tensor([0.5, 1.0])).gamma.double()
    factor_s, variance_s = torch.tensor(1.0).double(), torch.tensor(0.0).double()
    for q, noise, gamma in zip(chain.q[1:], noising(2, 2), gammas, strict=True):
        factor = alpha(gamma) / factor_s
        variance = sigma(gamma) ** 2 - factor**2 * variance_s
        added = noise(torch.ones(2))
        torch.testing.assert_close(added.mean, factor.expand(2).float())
        torch.testing.assert_close(added.variance, variance.expand(2).float())
        q.assign(factor * torch.eye(2), torch.zeros(2), variance * torch.eye(2))
        factor_s, variance_s = alpha(gamma), sigma(gamma) ** 2
    separate = partial(SeparateConditionals, network=Linear)
    posterior = FullRankNormalPosterior
    model = loaded(
        MarkovianHVAE(
            2, 3, Linear, Linear, posterior, LIKELIHOOD, StandardNormalPrior, noising, separate, (3,)
        ),
        chain,
    )
    x, exact = X.expand(20_000, -1), chain.exact_elbo(X)
    assert largest_z(ELBO()(model, x), exact) < Z_MAX
    assert largest_z(AnalyticELBO()(model, x), exact) < Z_MAX


@torch.no_grad()
def test_the_textbook_formula_with_a_kl_in_the_middle_is_another_number(capsys):
    chain = oracle(3, 2, 2)
    (q1, q2), p1 = chain.q, chain.p[1]
    # The textbook's KL drops the covariance of z_1 and z_2, and keeps their marginals.
    mean, spread = q1.affine(X), q1.covariance
    cross = spread @ q2.weight.mT
    above = (q2.affine(mean), q2.weight @ cross + q2.covariance)
    right, wrong = (p1.expected_log_prob(mean, spread, c, *above) for c in (cross, torch.zeros_like(cross)))
    gap = wrong - right
    first, top = hierarchy(chain)(X.expand(50_000, -1)).layers
    textbook, ours = kl_divergence(first.q, first.p)[0], first.kl()[0]
    assert largest_z(ours - textbook, gap) < Z_MAX
    with capsys.disabled():
        print(f"\nwith the textbook's KL in the middle the bound is off by {gap.item():+.3f} nats", end=" ")
    assert abs(gap) > 0.1
    assert z_scores(textbook, ours.mean()).abs() > 10 * Z_MAX
    assert not top.coupled and first.coupled


@pytest.mark.parametrize("levels", [1, 2, 3])
@torch.no_grad()
def test_the_importance_weighted_likelihood_is_the_exact_one(levels):
    chain = oracle(*SIZES[levels])
    model, exact = hierarchy(chain), chain.log_likelihood(X[None])
    weights = (model(X[None], samples=50_000).log_w - exact).exp()
    assert largest_z(weights, torch.ones(1).double()) < Z_MAX
    found = log_likelihood(model, X[None], samples=50_000, chunk=10_000)
    assert (found - exact).abs() < 0.05
    # At the exact posterior every weight is the likelihood itself.
    chain = oracle(*SIZES[levels], exact=True)
    log_w = hierarchy(chain)(X[None], samples=10).log_w
    torch.testing.assert_close(log_w, chain.log_likelihood(X[None]).expand(10, 1))


@torch.no_grad()
def test_the_bound_rises_with_the_samples_to_the_likelihood():
    chain = oracle(3, 2, 2)
    model, x = hierarchy(chain), X.expand(1_000, -1)
    bounds = [IWAE(samples=k)(model, x).mean() for k in (1, 5, 50, 300)]
    assert all(low < high for low, high in pairwise(bounds))
    gaps = [(chain.log_likelihood(X[None]) - bound).item() for bound in bounds]
    assert gaps[0] > 0.05 and abs(gaps[-1]) < 0.05 * gaps[0]


@pytest.mark.parametrize("objective", [STL(2), DReG(5)], ids=repr)
def test_gradients_vanish_draw_by_draw_at_the_exact_posterior(objective):
    chain = oracle(3, 2, 2, exact=True)
    model = hierarchy(chain)
    inference = list(model.inference_parameters())
    for x in torch.randn(3, 1, 3).double():
        gradients = torch.autograd.grad(objective(model, x).sum(), inference)
        assert max(gradient.abs().max() for gradient in gradients) < 1e-9
        plain = torch.autograd.grad(ELBO(2)(model, x).sum(), inference)
        assert max(gradient.abs().max() for gradient in plain) > 1e-2


def tiny(*latent_dims, **parts):
    network = partial(MLP, hidden=(8,))
    names = ("encoder", "decoder", "inner_encoder", "inner_decoder")
    defaults = {
        "posterior": DiagonalNormalPosterior,
        "likelihood": BernoulliLikelihood,
        "prior": StandardNormalPrior,
    }
    arguments = dict.fromkeys(names, network) | defaults | parts
    return HierarchicalVAE(latent_dims, x_shape=(1, 2, 2), **arguments).double()


def test_terms_add_up_and_do_not_depend_on_the_batch():
    model = tiny(3, 2, 2)
    trace = model(IMAGES, samples=4)
    terms = trace.terms()
    torch.testing.assert_close(terms["kl"], terms["kl_1"] + terms["kl_2"] + terms["kl_3"])
    torch.testing.assert_close(terms["elbo"], terms["reconstruction"] - terms["kl"])
    for i in range(len(IMAGES)):
        alone = model(IMAGES[i : i + 1], samples=4, zs=[z[:, i : i + 1] for z in trace.z])
        torch.testing.assert_close(alone.log_w[:, 0], trace.log_w[:, i])
        torch.testing.assert_close(alone.terms()["kl_2"], terms["kl_2"][i : i + 1])


def test_free_bits_hold_for_each_layer():
    model = tiny(3, 2)
    parameters = list(model.parameters())

    def gradient(bound):
        return torch.autograd.grad(bound, parameters, materialize_grads=True)

    torch.manual_seed(1)
    trace = model(IMAGES)
    kls = [layer.kl().mean() for layer in trace.layers]
    low, high = sorted(kl.item() for kl in kls)
    charged = max(kls, key=lambda kl: kl.item())
    expected = gradient(trace.log_px_z.mean() - charged)
    torch.manual_seed(1)
    found = gradient(BetaELBO(free_bits=(low + high) / 2)(model, IMAGES).mean())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_layers_that_are_given_are_kept_and_the_others_drawn():
    model = tiny(3, 2, 4)
    zs = model.descend(5)
    assert [tuple(z.shape) for z in zs] == [(5, 3), (5, 2), (5, 4)]
    for kept in range(4):
        again = model.descend(5, zs[3 - kept :])
        same = [torch.equal(a, b) for a, b in zip(zs, again, strict=True)]
        assert same == [False] * (3 - kept) + [True] * kept


def test_shapes():
    model = tiny(3, 2)
    z = model.encode(IMAGES)
    assert z.shape == model.posterior_mean(IMAGES).shape == (3, 5) and model.latent_dim == 5
    assert model.decode(z).shape == model.reconstruct(IMAGES).shape == (3, 1, 2, 2)
    assert model.generate(7).shape == model.generate(7, mean=True).shape == (7, 1, 2, 2)
    assert [tuple(mean.shape) for mean in model.posterior_means(IMAGES)] == [(3, 3), (3, 2)]
    # Nothing but z_1 reaches x.
    z[:, 3:] += 1
    torch.testing.assert_close(model.decode(z), model.decode(z - torch.tensor([0, 0, 0, 1.0, 1.0])))


def test_pseudo_inputs_are_latents_of_the_layer_below():
    model = tiny(3, 2, prior=partial(VampPrior, num_components=5))
    assert model.prior.bounds == (None, None)
    model.initialise(IMAGES)
    means = model.up[0](IMAGES).mean
    starts = means[[0, 1, 2, 0, 1]]
    assert model.prior.pseudo_inputs.shape == (5, 3)
    assert (model.prior.pseudo_inputs - starts).abs().max() < 0.1 and starts.min() < 0
    z = torch.randn(4, 2).double()
    mixture = model.up[1](model.prior.pseudo_inputs).log_prob(z[:, None]).logsumexp(1)
    torch.testing.assert_close(model.prior().log_prob(z), mixture - torch.tensor(5.0).double().log())
    # With a single layer they are images.
    single = tiny(3, prior=partial(VampPrior, num_components=5))
    assert single.prior.bounds == (0.0, 1.0) and single.prior.pseudo_inputs.shape == (5, 1, 2, 2)


OF_OTHER_MODELS = ("reconstruction", "log_prior", "semi_supervised", "vlb", "latent_diffusion")
CHOICES = [
    *(("objective", name) for name in options("objective") if name not in OF_OTHER_MODELS),
    *(("prior", name) for name in ("mog", "vamp", "flow")),
    ("posterior", "full_rank_normal"),
]


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_every_objective_and_prior_trains_every_parameter(group, option):
    config = assembled(model="hierarchical_vae", **{group: option})
    config.module.model.latent_dims = [3, 4, 2]
    module = instantiate(config.module)
    assert untrained(step(module, examples(instantiate(config.protocol)))) == []


def test_one_hot_latents_are_refused():
    with pytest.raises(UserError, match="posterior=diagonal_normal"):
        tiny(3, 2, posterior=GumbelSoftmaxPosterior)


@pytest.mark.parametrize("dims", ["[]", "[3,0]"])
def test_numbers_of_latents_are_checked(dims):
    with pytest.raises(UserError, match=r"model\.latent_dims"):
        composed("model=hierarchical_vae", f"model.latent_dims={dims}")
