"""The gradient of the importance-weighted bound by quadrature, and popular estimators that miss it."""

import pytest
import torch
from estimates import estimates, exact_gradient, flat, is_inference
from linear_gaussian import LinearGaussian
from oracles import Z_MAX, gauss_hermite, largest_z, z_scores
from torch.distributions import MultivariateNormal

from latentlab.objectives import IWAE, VIMCO, DReG, log_mean_exp

K = 2
POINTS = {1: 40, 2: 22}  # along each of the K x levels dimensions
DRAWS = 100_000  # to see a bias
TOLERANCE = 1e-4  # small beside the errors of sampling


def scalar_chain(levels):
    """Near its exact posterior, where the weights are smooth enough for the quadrature."""
    model = LinearGaussian([1] * (levels + 1))
    model.make_posterior_exact()
    with torch.no_grad():
        for parameter in model.inference_parameters():
            parameter.add_(torch.tensor(0.3).copysign(torch.randn(())))
    return model


def an_x():
    return torch.tensor([0.9]).double()


def bound_by_quadrature(model, x, points):
    """The exact bound for K = 2 of a chain of scalars, differentiable."""
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
    coarse = bound_by_quadrature(model, an_x(), POINTS[levels] - 6)
    fine = bound_by_quadrature(model, an_x(), POINTS[levels])
    torch.testing.assert_close(coarse, fine, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(
        exact_gradient(coarse, model), exact_gradient(fine, model), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("levels", POINTS)
@pytest.mark.parametrize("objective", [IWAE(K), DReG(K), VIMCO(K)], ids=repr)
def test_value_and_gradient_are_exact(objective, levels):
    model = scalar_chain(levels)
    exact = bound_by_quadrature(model, an_x(), POINTS[levels])
    values, gradients = estimates(objective, model, an_x(), 20_000)
    assert largest_z(values, exact) < Z_MAX
    assert largest_z(gradients, exact_gradient(exact, model)) < Z_MAX


def scored_with_parameters_detached(trace):
    """log q(z|x) with the parameters of each conditional detached, and not those of the networks."""
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
    # z_1 moves q(z_2|z_1): without that path the gradient does not vanish. Hence `frozen`.
    for levels, vanishes in [(1, True), (2, False)]:
        model = LinearGaussian([3, 2, 2, 1][: levels + 1])
        model.make_posterior_exact()
        _, gradients = estimates(stl_by_detaching, model, torch.ones(3).double(), 200)
        assert (gradients[:, is_inference(model)].std(0).max() < 1e-12) == vanishes


def test_dreg_by_hooks_is_biased_with_two_layers():
    # With two layers the gradient of z_1 passes through two hooks, and is weighted once too often.
    for levels, right in [(1, True), (2, False)]:
        model = scalar_chain(levels)
        exact = exact_gradient(bound_by_quadrature(model, an_x(), POINTS[levels]), model)
        copies = model.repeated(DRAWS)
        bound = dreg_by_hooks(copies, an_x().expand(DRAWS, -1))
        gradients = flat(torch.autograd.grad(bound.sum(), list(copies.parameters())))
        inference = is_inference(model)
        assert (z_scores(gradients, exact)[inference].abs().max() < Z_MAX) == right
