"""Priors: normalisation, draws, ownership of parameters."""

from copy import deepcopy

import pytest
import torch
import zuko
from oracles import Z_MAX, all_binary_images, largest_z, tiny_vae
from torch.distributions import kl_divergence

from latentlab.errors import UserError
from latentlab.gradients import frozen
from latentlab.nn.mlp import MLP
from latentlab.objectives import AnalyticELBO
from latentlab.posteriors import DiagonalNormalPosterior, FullRankNormalPosterior, GumbelSoftmaxPosterior
from latentlab.priors import (
    CategoricalPrior,
    FlowPrior,
    MixtureOfGaussiansPrior,
    StandardNormalPrior,
    VampPrior,
)

X = all_binary_images((1, 2, 2))
SHAPE = (2,)


def network(in_shape, out_shape):
    return MLP(in_shape, out_shape, hidden=(8,), activation=torch.nn.Tanh)


def posterior(kind=DiagonalNormalPosterior, latent_dim=2):
    return kind(network, (1, 2, 2), latent_dim)


def vamp(event_shape, q, **options):
    return VampPrior(event_shape, q, num_components=options.pop("num_components", 5), **options)


def spline(features):
    return zuko.flows.NSF(features, transforms=2, hidden_features=(8,), passes=2)


def flow(features):
    return zuko.flows.RealNVP(features, transforms=4, hidden_features=(8,))


def perturbed(prior):
    """The prior in float64, away from its symmetric initial value."""
    prior = prior.double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


REAL = {
    "standard_normal": StandardNormalPrior,
    "mog": MixtureOfGaussiansPrior,
    "vamp": vamp,
    "flow": lambda shape, q: FlowPrior(shape, q, flow=flow),
    "spline_flow": lambda shape, q: FlowPrior(shape, q, flow=spline),
}


def grid(limit, points):
    axis = torch.linspace(-limit, limit, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("kind", REAL)
def test_integrates_to_one_and_draws_have_its_mean(kind):
    p = perturbed(REAL[kind](SHAPE, posterior().double()))()
    z, cell = grid(40.0, 1001) if kind == "flow" else grid(12.0, 401)  # coupling layers have long tails
    with torch.no_grad():
        density = p.log_prob(z).exp() * cell
        assert density.sum().item() == pytest.approx(1.0, abs=1e-3)
        draws = p.sample((40_000,))
        assert largest_z(draws, (density[:, None] * z).sum(0)) < Z_MAX
        # E[p(z)] for z ~ p.
        assert largest_z(p.log_prob(draws).exp(), (density**2).sum() / cell) < Z_MAX


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtype(kind, dtype):
    p = REAL[kind](SHAPE, posterior().to(dtype)).to(dtype)()
    assert p.sample((3,)).shape == (3, 2) and p.sample((3,)).dtype == dtype
    assert p.log_prob(torch.zeros(4, 3, 2, dtype=dtype)).shape == (4, 3)
    assert p.log_prob(torch.zeros(4, 3, 2, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("make", [flow, spline])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_flow_inverts_and_its_determinant_is_that_of_autograd(make, size):
    p = perturbed(FlowPrior((size,), flow=make))()
    z = torch.randn(6, size).double()
    noise, log_det = p.transform.call_and_ladj(z)
    torch.testing.assert_close(p.transform.inv(noise), z)
    for each, expected in zip(z, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(p.transform, each)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, expected)


@pytest.mark.parametrize("make", [flow, zuko.flows.MAF])
def test_a_flow_that_starts_from_the_identity_is_standard_normal(make):
    z = torch.randn(20, 3)
    log_pz = FlowPrior((3,), flow=make, identity=True)().log_prob(z)
    torch.testing.assert_close(log_pz, StandardNormalPrior((3,))().log_prob(z))


def test_flow_draws_carry_a_path_and_parameters_get_gradients():
    prior = perturbed(FlowPrior((3,), flow=flow))
    for value in (
        lambda: prior().rsample((5,)).sum(),
        lambda: prior().log_prob(torch.randn(5, 3).double()).sum(),
    ):
        gradients = torch.autograd.grad(value(), list(prior.parameters()))
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_no_component_of_a_mixture_is_dead_at_the_start():
    prior = MixtureOfGaussiansPrior((8,), num_components=10).double()
    p = prior()
    z = torch.randn(2000, 8).double()
    shares = (
        (p.component_distribution.log_prob(z[:, None]) + p.mixture_distribution.logits).softmax(-1).mean(0)
    )
    assert shares.min() > 0.005
    torch.testing.assert_close(p.mixture_distribution.probs, torch.full((10,), 0.1).double())


def test_vamp_is_the_mean_of_posteriors():
    q = posterior().double()
    prior = perturbed(vamp(SHAPE, q))
    z = torch.randn(7, 2).double()
    each = torch.stack([q(u.clamp(0, 1)).log_prob(z) for u in prior.pseudo_inputs])
    torch.testing.assert_close(prior().log_prob(z), each.exp().mean(0).log())


@pytest.mark.parametrize("kind", [DiagonalNormalPosterior, FullRankNormalPosterior, GumbelSoftmaxPosterior])
def test_vamp_works_with_any_posterior(kind):
    vae = tiny_vae(
        latent_dim=2, posterior=kind, prior=lambda event_shape, posterior: vamp(event_shape, posterior)
    )
    vae.initialise(X)
    AnalyticELBO(samples=2)(vae, X).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in vae.parameters())
    assert vae.generate(3).shape == (3, 1, 2, 2)


def test_vamp_does_not_own_the_posterior():
    vae = tiny_vae(latent_dim=2, prior=lambda event_shape, posterior: vamp(event_shape, posterior))
    assert [name for name, _ in vae.prior.named_parameters()] == ["pseudo_inputs"]
    assert list(vae.prior.state_dict()) == ["pseudo_inputs"]
    names = [name for name, _ in vae.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(parameter) for parameter in vae.parameters()})
    assert not any(name.startswith("prior.") and name != "prior.pseudo_inputs" for name in vae.state_dict())


def test_vamp_is_frozen_with_the_model():
    vae = tiny_vae(latent_dim=2, prior=lambda event_shape, posterior: vamp(event_shape, posterior))
    live = vae(X, samples=3)
    z = [live.z[0].detach().requires_grad_()]
    cold = frozen(vae)(X, samples=3, zs=z)
    torch.testing.assert_close(cold.log_pz, live.log_pz)
    (path,) = torch.autograd.grad(cold.log_pz.sum(), z)
    assert path.abs().sum() > 0
    again = frozen(vae)(X, samples=3, zs=[z[0].detach()])
    assert not again.log_pz.requires_grad and not again.log_w.requires_grad
    # The live parameters are restored.
    assert vae(X, samples=3).log_pz.requires_grad


def test_vamp_follows_a_copy_and_a_dtype():
    vae = tiny_vae(latent_dim=2, prior=lambda event_shape, posterior: vamp(event_shape, posterior))
    copy = deepcopy(vae).float()
    assert copy.prior.reference[0] is copy.posterior
    assert copy.prior().log_prob(torch.zeros(2)).dtype == torch.float32


def test_vamp_starts_from_data_without_drawing():
    prior = vamp(SHAPE, posterior().double(), num_components=20).double()
    state = torch.get_rng_state()
    prior.initialise(X)
    assert torch.equal(state, torch.get_rng_state())
    start = prior.pseudo_inputs.detach()
    # 16 images for 20 pseudo-inputs: the first four are used twice, with different noise.
    assert ((start - X[torch.arange(20) % 16]).abs() < 0.1).all()
    assert not torch.equal(start[0], start[16])
    assert ((start > 0) & (start < 1)).double().mean() > 0.9


def test_vamp_starts_from_a_mean_and_without_bounds():
    prior = vamp(SHAPE, posterior(), from_data=False, mean=-2.0, bounds=None)
    before = prior.pseudo_inputs.detach().clone()
    prior.initialise(X.float())
    assert torch.equal(prior.pseudo_inputs, before) and ((before + 2).abs() < 0.1).all()
    unbounded = vamp(SHAPE, posterior(), bounds=None)
    unbounded.initialise(5 * X.float())
    assert ((unbounded.pseudo_inputs - 5 * X[:5].float()).abs() < 0.1).all()


def test_vamp_needs_a_posterior():
    with pytest.raises(UserError, match=r"VampPrior .*choose prior="):
        VampPrior(SHAPE)


def test_categorical_prior_sums_to_one():
    p = CategoricalPrior((2, 3)).double()()
    codes = torch.eye(3).double()
    every = torch.stack([torch.stack([first, second]) for first in codes for second in codes])
    torch.testing.assert_close(p.log_prob(every).exp(), torch.full((9,), 1 / 9).double())
    assert p.sample((4,)).shape == (4, 2, 3)
    q = GumbelSoftmaxPosterior(network, (1, 2, 2), 2, num_categories=3).double()(X)
    exact = (q.base_dist.probs * (3 * q.base_dist.probs).log()).sum((-2, -1))
    torch.testing.assert_close(kl_divergence(q, p), exact)


def test_pairs_of_other_latents_are_refused():
    discrete = posterior(GumbelSoftmaxPosterior)
    for kind in (StandardNormalPrior, MixtureOfGaussiansPrior, FlowPrior):
        with pytest.raises(UserError, match="prior=categorical"):
            kind(SHAPE, discrete)
    # posterior=gumbel_softmax alone would not help: hierarchies refuse it.
    with pytest.raises(UserError, match="prior=standard_normal, or model=categorical_vae"):
        CategoricalPrior(SHAPE, posterior())
