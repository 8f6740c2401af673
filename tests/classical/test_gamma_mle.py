"""Natural gradients: the Fisher matrix, and the CAVI update as a unit step."""

import pytest
import torch
from oracles import Z_MAX, largest_z
from torch.func import grad, jacrev

from latentlab.classical.base import converge
from latentlab.classical.gamma_mle import PATHS, GammaMLE, advance, fisher, gradient, log_likelihood
from latentlab.classical.normal_gamma import CAVINormalGamma, elbo
from latentlab.classical.sources import GammaDraws, NormalDraws
from latentlab.errors import UserError

X = GammaDraws().x


def natural_step(bound, log_normaliser, eta):
    r"""$\eta + F^{-1} \nabla L$ with $F = \nabla^2 A(\eta)$ (Hoffman et al. 2013, eq. 23)."""
    return eta + torch.linalg.solve(jacrev(grad(log_normaliser))(eta), grad(bound)(eta))


def normal_log_normaliser(eta):
    """A(eta) of N(m, 1/l) at eta = (l m, -l/2), without its constant."""
    return -(eta[0] ** 2) / (4 * eta[1]) - 0.5 * (-2 * eta[1]).log()


def gamma_log_normaliser(eta):
    """A(eta) of Gamma(a, b) at eta = (a - 1, -b)."""
    return (eta[0] + 1).lgamma() - (eta[0] + 1) * (-eta[1]).log()


def test_a_unit_natural_step_is_the_cavi_update():
    model = CAVINormalGamma()
    model.begin([NormalDraws(20).x])
    model.step()
    model.a.mul_(1.3)
    model.b.mul_(0.7)
    m, _, a, b = (value.clone() for value in model.q())

    def by_mu(eta):
        return elbo(model.prior, model.data, -eta[0] / (2 * eta[1]), -2 * eta[1], a, b)

    eta = natural_step(by_mu, normal_log_normaliser, torch.stack([2.0 * (m + 1), -torch.ones(()).double()]))
    model.update_mu()
    torch.testing.assert_close(eta, torch.stack([model.precision * model.m, -model.precision / 2]))

    def by_tau(eta):
        return elbo(model.prior, model.data, model.m, model.precision, eta[0] + 1, -eta[1])

    eta = natural_step(by_tau, gamma_log_normaliser, torch.stack([a - 1, -b]))
    model.update_tau()
    torch.testing.assert_close(eta, torch.stack([model.a - 1, -model.b]))


@pytest.mark.parametrize("theta", [(0.5, 8.0), (3.0, 2.0)])
def test_the_fisher_matrix_is_the_covariance_of_the_score(theta):
    theta = torch.tensor(theta).double()
    x = torch.distributions.Gamma(*theta).sample((200_000,))
    scores = torch.stack([theta[1].log() - theta[0].digamma() + x.log(), theta[0] / theta[1] - x], dim=1)
    assert largest_z(scores, torch.zeros(2).double()) < Z_MAX
    assert largest_z((scores[:, :, None] * scores[:, None]).flatten(1), fisher(theta).flatten()) < Z_MAX


def test_the_gradient_is_that_of_the_likelihood():
    x = X.flatten()
    mean, mean_log = x.mean(), x.log().mean()
    theta = torch.tensor([0.7, 3.0]).double()
    expected = torch.func.grad(lambda theta: torch.distributions.Gamma(*theta).log_prob(x).mean())(theta)
    torch.testing.assert_close(gradient(theta, mean, mean_log), expected)
    value = torch.distributions.Gamma(*theta).log_prob(x).mean()
    torch.testing.assert_close(log_likelihood(theta, mean, mean_log), value)


def test_both_paths_end_at_the_maximum_and_stay_positive():
    model = converge(GammaMLE(), X, 5000)
    for path in map(model.path, PATHS):
        assert (path > 0).all()
        torch.testing.assert_close(path[-1], model.optimum(), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        gradient(model.optimum(), model.mean, model.mean_log), torch.zeros(2).double(), atol=1e-12, rtol=0
    )
    near = model.iterations_to(0.01)
    assert near["natural"] < near["gradient"] / 10


def test_the_truth_is_recovered_within_the_fisher_error():
    errors = []
    for seed in range(60):
        model = GammaMLE()
        model.set_data([GammaDraws(seed=seed).x])
        errors.append(model.optimum() - torch.tensor([3.0, 2.0]).double())
    errors = torch.stack(errors)
    cov = torch.linalg.inv(fisher(torch.tensor([3.0, 2.0]).double())) / 1000
    scaled = errors @ torch.linalg.inv(torch.linalg.cholesky(cov)).T
    assert (scaled.mean(0).abs() * 60**0.5).max() < Z_MAX
    assert ((scaled**2).mean(0) - 1).abs().max() < Z_MAX * (2 / 60) ** 0.5


def test_a_start_near_the_optimum_needs_no_iterations():
    model = GammaMLE()
    model.set_data([X])
    near = converge(GammaMLE(start=model.optimum().tolist()), X, 10).estimates()
    assert near["estimate/iterations_to_1_percent_natural"] == 0


def test_large_steps_keep_parameters_positive():
    moved = advance(torch.tensor([0.5, 8.0]).double(), torch.tensor([-1.0, -20.0]).double(), 1.0)
    assert (moved > 0).all()
    model = converge(GammaMLE(natural_size=1.0, gradient_size=1.0), X, 50)
    assert all((model.path(name) > 0).all() for name in PATHS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": (0.5, -8.0)}, "b=-8.0 must be greater"),
        ({"start": (1.0,)}, "must be two numbers"),
        ({"natural_size": 0.0}, "natural_size=0.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        GammaMLE(**arguments)


def test_observations_must_be_positive_and_differ():
    for x, words in (
        ([[1.0], [-1.0]], "greater than 0"),
        ([[1.0], [1.0]], "all equal"),
        ([[1.0]], "all equal"),
    ):
        with pytest.raises(UserError, match=words):
            GammaMLE().set_data([torch.tensor(x).double()])
