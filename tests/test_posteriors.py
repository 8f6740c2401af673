"""Posteriors: moments, closed-form KL divergences against draws, relaxed and exact draws."""

from functools import partial

import pytest
import torch
import zuko
from oracles import Z_MAX, all_binary_images, largest_z, tiny_vae
from torch.distributions import kl_divergence

from latentlab.gradients import frozen
from latentlab.nn.mlp import MLP
from latentlab.objectives import ELBO, STL, ScoreFunction
from latentlab.posteriors import (
    DiagonalNormalPosterior,
    FullRankNormalPosterior,
    GumbelSoftmaxPosterior,
    IAFPosterior,
    MAFPosterior,
)
from latentlab.priors import CategoricalPrior, StandardNormalPrior

X = all_binary_images((1, 2, 2))[[1, 6, 11]]
KINDS = {
    "diagonal_normal": (DiagonalNormalPosterior, StandardNormalPrior),
    "full_rank_normal": (FullRankNormalPosterior, StandardNormalPrior),
    "gumbel_softmax": (GumbelSoftmaxPosterior, CategoricalPrior),
}

SMALL = partial(zuko.flows.MAF, transforms=2, hidden_features=[8])
FLOWS = {
    "iaf": partial(IAFPosterior, flow=SMALL, context=3),
    "maf": partial(MAFPosterior, flow=SMALL, context=3),
}
ALL = {**{kind: q for kind, (q, _) in KINDS.items()}, **FLOWS}


def network(in_shape, out_shape):
    return MLP(in_shape, out_shape, hidden=(8,), activation=torch.nn.Tanh)


def pair(kind, latent_dim=3):
    q, p = KINDS[kind]
    posterior = q(network, (1, 2, 2), latent_dim).double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.mul_(2)  # away from the prior
    return posterior(X), p(posterior.event_shape, posterior).double()()


@pytest.mark.parametrize("kind", KINDS)
def test_closed_form_kl_against_draws(kind):
    with torch.no_grad():
        q, p = pair(kind)
        z = q.sample((40_000,))
        assert largest_z(q.log_prob(z) - p.log_prob(z), kl_divergence(q, p)) < Z_MAX
        assert largest_z(-q.log_prob(z), q.entropy()) < Z_MAX
        assert largest_z(z, q.mean) < Z_MAX


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_finds_the_closed_form(kind):
    q, p = KINDS[kind]
    vae = tiny_vae(latent_dim=3, posterior=q, prior=p)
    layer = vae(X, samples=2).layers[0]
    torch.testing.assert_close(layer.kl(), kl_divergence(layer.q, layer.p).expand(2, 3))


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_full_rank_covariance(latent_dim):
    posterior = FullRankNormalPosterior(network, (1, 2, 2), latent_dim).double()
    with torch.no_grad():
        q = posterior(X)
        assert (q.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all() and torch.equal(
            q.scale_tril, q.scale_tril.tril()
        )
        torch.testing.assert_close(q.covariance_matrix, q.scale_tril @ q.scale_tril.mT)
        z = q.sample((40_000,)) - q.mean
        assert largest_z(z[..., None] * z[..., None, :], q.covariance_matrix) < Z_MAX
    # Each output of the network is a separate parameter.
    size = latent_dim * (latent_dim + 3) // 2
    entries = torch.randn(size).double()
    with torch.no_grad():
        last = posterior.network.layers[-1]
        last.weight.zero_()
        last.bias.copy_(entries)
    found = posterior(X[:1])
    values = torch.cat(
        [found.loc[0], found.scale_tril[0][torch.tril_indices(latent_dim, latent_dim).unbind()]]
    )
    assert len(values.unique()) == size


def test_gumbel_softmax_draws_relaxed_for_gradients_and_exact_otherwise():
    vae = tiny_vae(latent_dim=3, posterior=GumbelSoftmaxPosterior, prior=CategoricalPrior)
    relaxed = vae(X, samples=4).z[0]
    assert relaxed.shape == (4, 3, 3, 10) and relaxed.requires_grad and relaxed.max() < 1
    with torch.no_grad():
        exact = vae(X, samples=4).z[0]
    assert ((exact == 0) | (exact == 1)).all()
    assert set(vae.encode(X).unique().tolist()) == {0.0, 1.0}


def test_categorical_bound_is_exact_in_evaluation():
    # By enumeration of one latent with three categories.
    vae = tiny_vae(
        latent_dim=1,
        posterior=lambda **parts: GumbelSoftmaxPosterior(num_categories=3, **parts),
        prior=CategoricalPrior,
    )
    codes = (
        torch.eye(3).double()[:, None, None].expand(3, 3, 1, 3)
    )  # (K, B, L, C), every code for every image
    with torch.no_grad():
        trace = vae(X, samples=3, zs=[codes])
        exact = (trace.log_qz_x.exp() * trace.log_w).sum(0)
        evidence = (trace.log_px_z + trace.log_pz).logsumexp(0)
        estimates = vae.terms(X.repeat(4000, 1, 1, 1))["elbo"].view(4000, 3)
        torch.testing.assert_close(trace.log_qz_x.exp().sum(0), torch.ones(3).double())
    assert largest_z(estimates, exact) < Z_MAX
    assert (exact < evidence).all()


def test_temperature_is_a_function_of_the_step():
    posterior = GumbelSoftmaxPosterior(
        network, (1, 2, 2), 2, temperature=2.0, annealing_rate=0.01, min_temperature=0.5
    )
    for step, expected in [(0, 2.0), (100, 2.0 / 2.718281828459045), (10_000, 0.5), (0, 2.0)]:
        posterior.anneal(step)
        assert posterior(X.float()).base_dist.temperature == pytest.approx(expected)
    # A temperature below the floor is kept.
    cold = GumbelSoftmaxPosterior(network, (1, 2, 2), 2, temperature=0.1)
    cold.anneal(50)
    assert cold.temperature == 0.1


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(kind, dtype):
    posterior = ALL[kind](network, (1, 2, 2), 2).to(dtype)
    q = posterior(X.to(dtype))
    assert q.rsample().dtype == q.log_prob(q.sample()).dtype == dtype


@pytest.mark.parametrize("kind", ALL)
def test_parameters_are_single_precision_in_mixed_precision(kind):
    posterior = ALL[kind](network, (1, 2, 2), 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert posterior.network(X.float()).dtype == torch.bfloat16
        assert posterior(X.float()).mean.dtype == torch.float32


def flow_vae(kind, latent_dim=2):
    vae = tiny_vae(latent_dim, posterior=FLOWS[kind])
    with torch.no_grad():
        for parameter in vae.posterior.parameters():
            parameter.mul_(1.5)  # away from a normal distribution
    return vae


@pytest.mark.parametrize("kind", FLOWS)
def test_the_density_of_a_flow_integrates_to_one_and_is_that_of_its_draws(kind):
    with torch.no_grad():
        q = flow_vae(kind).posterior(X)
        axis = torch.linspace(-20, 20, 300).double()
        grid = torch.cartesian_prod(axis, axis)[:, None]  # (N, 1, 2)
        density = q.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
        torch.testing.assert_close(density.sum(0), torch.ones(3).double(), rtol=1e-3, atol=1e-3)
        z = q.sample((20_000,))
        mean = (density[..., None] * grid).sum(0)
        assert largest_z(z, mean) < Z_MAX
        assert largest_z(z.sin(), (density[..., None] * grid.sin()).sum(0)) < Z_MAX
        torch.testing.assert_close(q.mean, mean, rtol=0, atol=0.1)
        torch.testing.assert_close(q.variance, z.var(0), rtol=0.3, atol=0)


@pytest.mark.parametrize("latent_dim", [1, 3])
@pytest.mark.parametrize("kind", FLOWS)
def test_a_draw_of_a_flow_has_one_score_from_its_noise_and_by_inversion(kind, latent_dim):
    posterior = flow_vae(kind, latent_dim).posterior
    q = posterior(X)
    z = q.rsample((4,))
    scores = []
    for value in (z, z.clone()):
        log_q = q.log_prob(value)
        gradients = torch.autograd.grad(log_q.sum(), list(posterior.parameters()), retain_graph=True)
        scores.append((log_q, *gradients))
    torch.testing.assert_close(*scores)
    assert not q.sample().requires_grad and q.log_prob(q.sample()).requires_grad


@pytest.mark.parametrize("kind", FLOWS)
def test_a_frozen_flow_keeps_the_path_alone(kind):
    vae = flow_vae(kind)
    z = vae(X).z[0].detach().requires_grad_()
    frozen(vae)(X, zs=[z]).log_qz_x.sum().backward()
    assert z.grad.any() and all(parameter.grad is None for parameter in vae.parameters())


@pytest.mark.parametrize("objective", [STL(), ScoreFunction(4)], ids=repr)
@pytest.mark.parametrize("kind", FLOWS)
def test_estimators_agree_on_the_gradient_of_a_flow(kind, objective):
    vae, x = flow_vae(kind), X[:1].expand(100, -1, -1, -1)

    def gradients(objective, n=40):
        bounds = (objective(vae, x).mean() for _ in range(n))
        each = [torch.autograd.grad(bound, list(vae.parameters())) for bound in bounds]
        return torch.stack([torch.cat([part.flatten() for part in parts]) for parts in each])

    assert largest_z(gradients(objective) - gradients(ELBO()), torch.tensor(0.0)) < Z_MAX


def test_a_flow_fits_a_posterior_better_than_a_normal_distribution():
    # A decoder with a curved posterior: q is trained alone.
    bounds = {}
    for kind, posterior in {"normal": DiagonalNormalPosterior, **FLOWS}.items():
        torch.manual_seed(0)
        vae = tiny_vae(2, posterior=posterior)
        with torch.no_grad():
            for parameter in vae.likelihood.parameters():
                parameter.mul_(4)
        optimizer = torch.optim.Adam(vae.inference_parameters(), 0.02)
        for _ in range(100):
            optimizer.zero_grad()
            (-ELBO(16)(vae, X).mean()).backward()
            optimizer.step()
        with torch.no_grad():
            bounds[kind] = ELBO(5000)(vae, X).mean().item()
    assert min(bounds["iaf"], bounds["maf"]) > bounds["normal"], bounds
