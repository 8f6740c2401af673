"""A factorised Gaussian under both divergences, against their closed form."""

import pytest
import torch

from latentlab.classical.base import converge
from latentlab.classical.mean_field import MeanFieldGaussian
from latentlab.errors import UserError

CASES = [(2, 0.9), (2, -0.5), (5, 0.6), (5, -0.2), (3, 0.0)]


def kl_normals(m, cov, mean, target):
    """The closed form of KL(N(m, cov) || N(mean, target))."""
    solved = torch.linalg.solve(target, torch.cat([cov, (m - mean)[:, None]], dim=1))
    squares = solved[:, :-1].trace() + (m - mean) @ solved[:, -1]
    return 0.5 * (squares - len(m) + target.logdet() - cov.logdet())


def fitted(dimension, correlation):
    return converge(MeanFieldGaussian(dimension, correlation, scale=1.5), torch.zeros(1, 1), 5000)


def divergence(model, theta, forward):
    m, v = theta[: len(model.m)], theta[len(model.m) :].exp()
    q, p = (m, v.diag()), (model.mean, model.cov)
    return kl_normals(*q, *p) if forward else kl_normals(*p, *q)


@pytest.mark.parametrize(("dimension", "correlation"), CASES)
def test_coordinate_ascent_is_monotone_and_ends_at_the_minimum(dimension, correlation):
    model = fitted(dimension, correlation)
    assert model.converged
    assert torch.tensor(model.history.values["elbo"]).double().diff().min() > -1e-9
    theta = torch.cat([model.m, model.v.log()])
    gradient = torch.func.grad(lambda theta: divergence(model, theta, forward=True))(theta)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dimension", "correlation"), CASES)
def test_the_marginals_minimise_the_reverse_divergence(dimension, correlation):
    model = MeanFieldGaussian(dimension, correlation, scale=1.5)
    theta = torch.cat([model.mean, model.cov.diagonal().log()])
    gradient = torch.func.grad(lambda theta: divergence(model, theta, forward=False))(theta)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    hessian = torch.func.jacrev(torch.func.grad(lambda theta: divergence(model, theta, forward=False)))(theta)
    assert torch.linalg.eigvalsh(hessian).min() > 0


@pytest.mark.parametrize(("dimension", "correlation"), CASES)
def test_the_variance_is_too_small_by_the_known_factor(dimension, correlation):
    model = fitted(dimension, correlation)
    ratio = model.v / model.cov.diagonal()
    torch.testing.assert_close(ratio, torch.full_like(ratio, model.variance_factor()))
    if dimension == 2:
        torch.testing.assert_close(ratio, torch.full_like(ratio, 1 - correlation**2))


def test_the_divergences_are_those_of_the_closed_form():
    model = fitted(3, 0.5)
    p, q = (model.mean, model.cov), (model.m, model.v.diag())
    found = model.divergences()
    assert found["kl_q_p_q"] == pytest.approx(float(kl_normals(*q, *p)), rel=1e-10)
    assert found["kl_p_q_q"] == pytest.approx(float(kl_normals(*p, *q)), rel=1e-10)
    assert found["kl_q_p_q"] <= found["kl_q_p_marginals"]
    assert found["kl_p_q_marginals"] <= found["kl_p_q_q"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"correlation": 1.0}, "correlation=1.0"),
        ({"dimension": 4, "correlation": -0.4}, r"\(-0.3333, 1\)"),
        ({"dimension": 1}, "dimension=1"),
        ({"scale": 0.0}, "scale=0.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        MeanFieldGaussian(**arguments)
