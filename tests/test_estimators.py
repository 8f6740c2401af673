"""Values and gradients of every objective against exact values.

Linear-Gaussian hierarchies in closed form, chains of scalars and small VAEs by quadrature, binary latents by
enumeration.
"""

from functools import partial

import pytest
import torch
from binary_chain import BinaryChain
from estimates import estimates, exact_gradient, flat, is_inference
from linear_gaussian import LinearGaussian
from oracles import Z_MAX, all_binary_images, exact_elbo, gauss_hermite, largest_z, tiny_vae, z_scores
from torch import nn
from torch.distributions import Distribution, MultivariateNormal
from torch.func import functional_call, grad, vmap

from latentlab.gradients import frozen, with_value
from latentlab.objectives import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    RWS,
    STL,
    TVO,
    VIMCO,
    AnalyticELBO,
    BetaELBO,
    DReG,
    ScoreFunction,
    bounds_without_each,
    log_mean_exp,
    scored_at_fixed_draws,
)
from latentlab.priors import MixtureOfGaussiansPrior, StandardNormalPrior, VampPrior

LEVELS = [1, 2, 3]
SIZES = [3, 2, 2, 1]  # of x, z_1, z_2, z_3
DRAWS = 20_000
OF_THE_ELBO = [ELBO(2), AnalyticELBO(), STL(), ScoreFunction(3), BetaELBO(), IWAE(1), DReG(1)]
OF_IWAE = [IWAE(3), DReG(3), VIMCO(3)]
OTHERS = [MIWAE(2, groups=2), PIWAE(2, groups=2), CIWAE(3), RWS(3), TVO(3)]


def linear_gaussian(levels):
    return LinearGaussian(SIZES[: levels + 1])


def an_x(size=3):
    return torch.tensor([0.4, -1.1, 0.8]).double()[:size]


@pytest.mark.parametrize("levels", LEVELS)
def test_the_oracle_knows_its_own_posterior(levels):
    model = linear_gaussian(levels)
    assert model.exact_elbo(an_x()) < model.log_likelihood(an_x()) - 0.1
    model.make_posterior_exact()
    log_px = model.log_likelihood(an_x())
    torch.testing.assert_close(model.exact_elbo(an_x()), log_px)
    # At the exact posterior all draws have the same weight.
    torch.testing.assert_close(model(an_x()[None], samples=50).log_w, log_px.expand(50, 1))


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("objective", OF_THE_ELBO, ids=repr)
def test_value_and_gradient_of_the_elbo_are_exact(objective, levels):
    model = linear_gaussian(levels)
    exact = model.exact_elbo(an_x())
    values, gradients = estimates(objective, model, an_x(), DRAWS)
    assert largest_z(values, exact) < Z_MAX
    assert largest_z(gradients, exact_gradient(exact, model)) < Z_MAX


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("beta", [0.0, 0.3, 4.0])
def test_beta_weighs_the_gradient_and_not_the_value(beta, levels):
    model = linear_gaussian(levels)
    reconstruction, kls = model.exact_terms(an_x())
    kl = torch.stack(kls).sum()
    values, gradients = estimates(BetaELBO(beta=beta), model, an_x(), DRAWS)
    assert largest_z(values, reconstruction - kl) < Z_MAX
    assert largest_z(gradients, exact_gradient(reconstruction - beta * kl, model)) < Z_MAX


@pytest.mark.parametrize("levels", LEVELS)
def test_kl_of_each_layer(levels):
    model = linear_gaussian(levels)
    with torch.no_grad():
        terms = model(an_x().expand(DRAWS, -1)).terms()
    for level, exact in enumerate(model.exact_terms(an_x())[1], start=1):
        assert largest_z(terms[f"kl_{level}"], exact) < Z_MAX


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("objective", [DReG(3), VIMCO(3)], ids=repr)
def test_estimators_of_the_iwae_gradient_agree(objective, levels):
    # The gradient of IWAE is automatic differentiation of an unbiased estimate.
    model = linear_gaussian(levels)
    values, gradients = estimates(objective, model, an_x(), DRAWS)
    plain_values, plain_gradients = estimates(IWAE(3), model, an_x(), DRAWS)
    assert largest_z(values - plain_values, torch.tensor(0.0)) < Z_MAX
    assert largest_z(gradients - plain_gradients, torch.tensor(0.0)) < Z_MAX


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("objective", OF_THE_ELBO + OF_IWAE + OTHERS, ids=repr)
def test_gradient_at_the_exact_posterior_is_that_of_log_px(objective, levels):
    model = linear_gaussian(levels)
    log_px = model.log_likelihood(an_x())
    model.make_posterior_exact()
    values, gradients = estimates(objective, model, an_x(), DRAWS)
    if not isinstance(objective, AnalyticELBO | BetaELBO):
        torch.testing.assert_close(values, log_px.expand_as(values))
    assert largest_z(values, log_px) < Z_MAX
    # The gradient in the parameters of q is zero at the maximum of the bound.
    exact = exact_gradient(model.log_likelihood(an_x()), model)
    assert not exact[is_inference(model)].any()
    assert largest_z(gradients, exact) < Z_MAX


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("objective", [STL(1), STL(4), DReG(1), DReG(5), ScoreFunction(4)], ids=repr)
def test_gradient_of_q_vanishes_draw_by_draw_at_the_exact_posterior(objective, levels):
    model = linear_gaussian(levels)
    model.make_posterior_exact()
    _, gradients = estimates(objective, model, an_x(), 200)
    inference = is_inference(model)
    assert gradients[:, inference].abs().max() < 1e-12
    assert gradients[:, ~inference].abs().min(0).values.max() > 1e-3


@pytest.mark.parametrize("levels", LEVELS)
def test_iwae_does_not_decrease_in_k(levels):
    model = linear_gaussian(levels)
    counts = [1, 2, 4, 8, 16, 64]
    with torch.no_grad():
        log_w = model(an_x().expand(DRAWS, -1), samples=counts[-1]).log_w
    bounds = torch.stack([log_w[:k].logsumexp(0) - torch.tensor(k).log() for k in counts])
    rises = bounds.diff(dim=0)
    error = rises.std(1) / DRAWS**0.5
    assert (rises.mean(1) > Z_MAX * error).all()
    assert (bounds.mean(1) < model.log_likelihood(an_x())).all()


@pytest.mark.parametrize("levels", LEVELS)
def test_one_sample_of_dreg_is_stl_and_of_iwae_the_elbo(levels):
    model, x = linear_gaussian(levels), an_x().expand(5, -1)
    for one, other in [(DReG(1), STL(1)), (IWAE(1), ELBO(1))]:
        pair = []
        for objective in (one, other):
            torch.manual_seed(3)
            bound = objective(model, x)
            pair.append((bound, exact_gradient(bound.sum(), model)))
        torch.testing.assert_close(*pair)


# The importance-weighted bound of a chain of scalars, by quadrature.

SCALAR_X = torch.tensor([0.9]).double()
K = 2
POINTS = {1: 40, 2: 22}  # quadrature points in each of the K x levels dimensions, by number of levels
MANY = 100_000  # draws that reveal the bias
TOLERANCE = 1e-4  # smaller than the sampling errors


def scalar_chain(levels):
    """A chain near its exact posterior, where the weights are smooth enough for quadrature."""
    model = LinearGaussian([1] * (levels + 1))
    model.make_posterior_exact()
    with torch.no_grad():
        for parameter in model.inference_parameters():
            parameter.add_(torch.tensor(0.3).copysign(torch.randn(())))
    return model


def bound_by_quadrature(model, x, points):
    """The exact bound of a chain of scalars for K = 2, differentiable."""
    nodes, weights = gauss_hermite(points)
    levels = model.levels
    grid = torch.cartesian_prod(*[nodes] * (K * levels)).view(-1, K, levels)
    weight = torch.cartesian_prod(*[weights] * (K * levels)).view(-1, K * levels).prod(1)
    zs = model.at_noise(x, [grid[..., level].T[..., None] for level in range(levels)])
    log_w = model(x.expand(len(grid), -1), samples=K, zs=zs).log_w
    return (weight * log_mean_exp(log_w)).sum()


@pytest.mark.parametrize("levels", POINTS)
def test_the_quadrature_has_converged(levels):
    model = scalar_chain(levels)
    coarse = bound_by_quadrature(model, SCALAR_X, POINTS[levels] - 6)
    fine = bound_by_quadrature(model, SCALAR_X, POINTS[levels])
    torch.testing.assert_close(coarse, fine, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(
        exact_gradient(coarse, model), exact_gradient(fine, model), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("levels", POINTS)
@pytest.mark.parametrize(
    "objective", [IWAE(K), DReG(K), VIMCO(K), MIWAE(K, groups=3), PIWAE(K), CIWAE(K, beta=0.0)], ids=repr
)
def test_value_and_gradient_of_iwae_are_exact(objective, levels):
    model = scalar_chain(levels)
    exact = bound_by_quadrature(model, SCALAR_X, POINTS[levels])
    values, gradients = estimates(objective, model, SCALAR_X, 20_000)
    assert largest_z(values, exact) < Z_MAX
    assert largest_z(gradients, exact_gradient(exact, model)) < Z_MAX


@pytest.mark.parametrize("levels", POINTS)
def test_piwae_has_the_tight_bound_for_the_model_and_the_loose_one_for_q(levels):
    # One draw in each group: the inference network has the gradient of the ELBO.
    model = scalar_chain(levels)
    elbo, inference = model.exact_elbo(SCALAR_X), is_inference(model)
    tight = bound_by_quadrature(model, SCALAR_X, POINTS[levels])
    exact = torch.where(inference, exact_gradient(elbo, model), exact_gradient(tight, model))
    values, gradients = estimates(PIWAE(1, groups=K), model, SCALAR_X, 20_000)
    assert largest_z(values, tight) < Z_MAX
    assert largest_z(gradients, exact) < Z_MAX


@pytest.mark.parametrize("levels", POINTS)
def test_ciwae_mixes_the_two_bounds(levels):
    model = scalar_chain(levels)
    exact = 0.3 * model.exact_elbo(SCALAR_X) + 0.7 * bound_by_quadrature(model, SCALAR_X, POINTS[levels])
    values, gradients = estimates(CIWAE(K, beta=0.3), model, SCALAR_X, 20_000)
    assert largest_z(values, exact) < Z_MAX
    assert largest_z(gradients, exact_gradient(exact, model)) < Z_MAX


def test_limits_of_groups_and_mixtures_are_iwae_and_the_elbo():
    model, x = LinearGaussian([3, 2, 2]), an_x().expand(5, -1)
    results = []
    for objective in (IWAE(3), MIWAE(3), PIWAE(3), CIWAE(3, beta=0.0), CIWAE(3, beta=1.0), ELBO(3)):
        torch.manual_seed(3)
        bound = objective(model, x)
        results.append((bound, exact_gradient(bound.sum(), model)))
    iwae, miwae, piwae, tight, loose, elbo = results
    for found, expected in [(miwae, iwae), (piwae, iwae), (tight, iwae), (loose, elbo)]:
        torch.testing.assert_close(found, expected)


def scored_with_parameters_detached(trace):
    """log q(z|x) with the parameters of each conditional detached."""
    return sum(
        MultivariateNormal(layer.q.loc.detach(), scale_tril=layer.q.scale_tril.detach()).log_prob(layer.z)
        for layer in trace.layers
    )


def stl_by_detaching(model, x):
    trace = model(x)
    return (trace.log_px_z + trace.log_pz - scored_with_parameters_detached(trace)).mean(0)


def dreg_by_hooks(model, x):
    trace = model(x, samples=K)
    log_w = trace.log_px_z + trace.log_pz - scored_with_parameters_detached(trace)
    weight = log_w.detach().softmax(0)
    for z in trace.z:
        z.register_hook(lambda gradient: weight[..., None] * gradient)
    return (weight * log_w).sum(0)


def test_detaching_each_conditional_does_not_stick_the_landing_with_two_layers():
    # Detaching cuts the path from z_1 through q(z_2|z_1). `frozen` keeps it.
    for levels, vanishes in [(1, True), (2, False)]:
        model = LinearGaussian([3, 2, 2, 1][: levels + 1])
        model.make_posterior_exact()
        _, gradients = estimates(stl_by_detaching, model, torch.ones(3).double(), 200)
        assert (gradients[:, is_inference(model)].std(0).max() < 1e-12) == vanishes


def test_dreg_by_hooks_is_biased_with_two_layers():
    # With two layers the gradient of z_1 passes through two hooks and is weighted twice.
    for levels, right in [(1, True), (2, False)]:
        model = scalar_chain(levels)
        exact = exact_gradient(bound_by_quadrature(model, SCALAR_X, POINTS[levels]), model)
        copies = model.repeated(MANY)
        bound = dreg_by_hooks(copies, SCALAR_X.expand(MANY, -1))
        gradients = flat(torch.autograd.grad(bound.sum(), list(copies.parameters())))
        inference = is_inference(model)
        assert (z_scores(gradients, exact)[inference].abs().max() < Z_MAX) == right


# Discrete latents, by enumeration.

BINARY = {1: [2, 3], 2: [2, 2, 1]}
BINARY_X = torch.tensor([1.2, -0.7]).double()


class Stratified(BinaryChain):
    """A chain of one layer whose draws have the frequencies of q exactly. The bits of q are independent of x."""

    def __init__(self):
        super().__init__([2, 2])
        with torch.no_grad():
            self.q[0].weight.zero_()
            self.q[0].bias.copy_(torch.tensor([3.0, 1.0]).log())  # probabilities of 3/4 and 1/2

    def forward(self, x, samples=1, zs=None):
        if zs is None:
            bits = torch.tensor([[i > 0, j > 0] for i in range(4) for j in range(2)]).double()
            zs = [bits[:, None].expand(-1, len(x), -1)]
        return super().forward(x, samples, zs)

    def path(self, beta):
        """E[log w] under q^(1 - beta) p^beta, log p(x), and KL(p(z|x) || q(z|x)), by enumeration."""
        zs = self.all_latents()
        trace = self(BINARY_X.expand(zs[0].shape[1], -1), zs=zs)
        log_w, log_q = trace.log_w[0], trace.log_qz_x[0]
        log_px = (log_w + log_q).logsumexp(0)
        posterior = (log_w + log_q).softmax(0)
        kl = (posterior * (log_w - log_px)).sum()
        return ((log_q + beta * log_w).softmax(0) * log_w).sum(), log_px, kl


@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_value_and_covariance_gradient_of_tvo_are_exact(partitions):
    # With draws that have the frequencies of q, the weighted sums are the expectations.
    model, objective = Stratified(), TVO(8, partitions=partitions, first=0.1)
    points = torch.tensor(objective.points).double()
    exact = sum(width * model.path(beta)[0] for beta, width in zip(points, points.diff(), strict=False))
    bound = objective(model, BINARY_X[None])
    torch.testing.assert_close(bound, exact[None])
    torch.testing.assert_close(exact_gradient(bound.sum(), model), exact_gradient(exact, model))


def test_tvo_rises_from_the_elbo_to_log_px():
    model = Stratified()
    bounds = [TVO(8, partitions=n, first=0.5**9)(model, BINARY_X[None]).item() for n in (1, 2, 10, 2000)]
    elbo, log_px, _ = (value.item() for value in model.path(0.0))
    assert bounds[0] == pytest.approx(elbo) and bounds == sorted(bounds)
    assert log_px - 0.01 < bounds[-1] < log_px
    assert TVO(8, partitions=3, first=0.01).points == pytest.approx([0, 0.01, 0.1, 1])


def test_rws_follows_log_px_for_the_model_and_the_forward_kl_for_q():
    model = Stratified()
    log_px, kl = model.path(0.0)[1], model.path(0.0)[2]
    exact = torch.where(is_inference(model), exact_gradient(-kl, model), exact_gradient(log_px, model))
    bound = RWS(8)(model, BINARY_X[None])
    torch.testing.assert_close(bound, log_px[None])
    torch.testing.assert_close(exact_gradient(bound.sum(), model), exact)


@pytest.mark.parametrize("levels", BINARY)
def test_values_with_few_draws_are_bounds(levels):
    model = BinaryChain(BINARY[levels])
    elbo, tight = (model.exact_bound(BINARY_X, samples) for samples in (1, 3))
    values, gradients = estimates(RWS(3), model, BINARY_X, 40_000)
    assert largest_z(values, tight) < Z_MAX
    model_part = ~is_inference(model)
    assert largest_z(gradients[:, model_part], exact_gradient(tight, model)[model_part]) < Z_MAX
    values, _ = estimates(TVO(3, partitions=4), model, BINARY_X, 40_000)
    assert elbo < values.mean() < tight


@pytest.mark.parametrize("levels", BINARY)
@pytest.mark.parametrize(
    ("objective", "samples"), [(ScoreFunction(2), 1), (ScoreFunction(5), 1), (VIMCO(2), 2), (VIMCO(3), 3)]
)
def test_value_and_gradient_by_enumeration(objective, samples, levels):
    model = BinaryChain(BINARY[levels])
    exact = model.exact_bound(BINARY_X, samples)
    values, gradients = estimates(objective, model, BINARY_X, 40_000)
    assert largest_z(values, exact) < Z_MAX
    assert largest_z(gradients, exact_gradient(exact, model)) < Z_MAX


def without_baseline(samples):
    def objective(model, x):
        trace = scored_at_fixed_draws(model, x, samples)
        log_w = trace.log_w.detach()
        return with_value(log_w, log_w * trace.log_qz_x + trace.log_px_z + trace.log_pz).mean(0)

    return objective


@pytest.mark.parametrize("levels", BINARY)
def test_leaving_one_out_reduces_the_variance(levels):
    model = BinaryChain(BINARY[levels])
    inference = is_inference(model)
    variances = []
    for objective in (without_baseline(4), ScoreFunction(4)):
        _, gradients = estimates(objective, model, BINARY_X, 20_000)
        assert largest_z(gradients, exact_gradient(model.exact_bound(BINARY_X, 1), model)) < Z_MAX
        variances.append(gradients[:, inference].var(0).sum())
    assert variances[1] < 0.5 * variances[0]


def test_bounds_without_each_against_a_loop():
    log_w = torch.randn(4, 3).double()
    for k in range(4):
        replaced = log_w.clone()
        replaced[k] = torch.cat([log_w[:k], log_w[k + 1 :]]).mean(0)
        expected = replaced.exp().mean(0).log()
        torch.testing.assert_close(bounds_without_each(log_w)[k], expected)


def test_no_path_is_left_in_the_draws():
    # Real latents too: the score function must not add to the path derivative.
    model = LinearGaussian([3, 2])
    trace = scored_at_fixed_draws(model, torch.randn(4, 3).double(), 2)
    assert not trace.z[0].requires_grad
    assert trace.log_qz_x.requires_grad


@pytest.mark.parametrize("objective", [ScoreFunction(2), VIMCO(2), RWS(2), TVO(2)], ids=repr)
def test_gradients_survive_autocast(objective):
    # Autocast must not reuse the half-precision weights of the pass without gradients.
    model = LinearGaussian([3, 2]).float()
    network = torch.nn.Linear(3, 3)

    class Preceded(LinearGaussian):
        def forward(self, x, samples=1, zs=None):
            return model(network(x).float(), samples, zs)

    wrapper = Preceded([3, 2])
    wrapper.network, wrapper.inner = network, model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective(wrapper, torch.randn(8, 3)).sum().backward()
    assert network.weight.grad is not None and network.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("objective", [ScoreFunction, VIMCO])
def test_one_sample_is_refused(objective):
    with pytest.raises(ValueError, match="at least 2"):
        estimates(objective(1), BinaryChain([2, 3]), BINARY_X, 10)


def test_every_gradient_is_drawn_apart():
    model = BinaryChain([2, 3])
    copies = model.repeated(3)
    bound = ScoreFunction(2)(copies, BINARY_X.expand(3, -1))
    gradients = flat(torch.autograd.grad(bound[0], list(copies.parameters())))
    assert gradients[0].any() and not gradients[1:].any()


# A VAE with one latent, by quadrature, also with a prior that shares the posterior's parameters.

IMAGES = all_binary_images((1, 2, 2))[[1, 6, 11]]
PRIORS = {
    "standard_normal": StandardNormalPrior,
    "mog": partial(MixtureOfGaussiansPrior, num_components=3),
    "vamp": partial(VampPrior, num_components=3),
}


def vae_with(prior):
    vae = tiny_vae(prior=prior)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return vae


def standard_normal(shape, dtype, device):
    return torch.randn(shape, dtype=dtype, device=device)


class Bound(nn.Module):
    def __init__(self, objective, vae):
        super().__init__()
        self.objective = objective
        self.vae = vae

    def forward(self):
        return self.objective(self.vae, IMAGES).sum()


def many_gradients(objective, vae, n):
    """n independent gradients, (n, P)."""
    module = Bound(objective, vae)
    parameters = dict(module.named_parameters())

    def bound(parameters, _):
        return functional_call(module, parameters)

    gradients = vmap(grad(bound), in_dims=(None, 0), randomness="different")(parameters, torch.zeros(n))
    return torch.cat([gradient.flatten(1) for gradient in gradients.values()], 1)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("objective", [ELBO(2), AnalyticELBO(), STL(), DReG(1), ScoreFunction(3)], ids=repr)
def test_gradient_of_a_vae_by_quadrature(objective, prior, monkeypatch):
    # vmap needs out-of-place random draws.
    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", standard_normal)
    vae = vae_with(PRIORS[prior])
    exact = exact_gradient(exact_elbo(vae, IMAGES).sum(), vae)
    Distribution.set_default_validate_args(False)
    assert largest_z(many_gradients(objective, vae, 20_000), exact) < Z_MAX


def test_frozen_reaches_parameters_under_all_their_names():
    vae = vae_with(PRIORS["vamp"])
    z = vae(IMAGES).z[0].detach().requires_grad_()
    frozen(vae)(IMAGES, zs=[z]).log_pz.sum().backward()
    assert z.grad is not None
    assert all(parameter.grad is None for parameter in vae.parameters())
