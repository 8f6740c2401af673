"""Coordinate ascent: monotone, a fixed point of the ELBO in every coordinate, and equal to known answers."""

import math

import pytest
import torch
from oracles import Z_MAX, largest_z
from torch.distributions import Gamma, Normal

from latentlab.classical.base import converge
from latentlab.classical.normal_gamma import (
    CAVINormalGamma,
    NormalGamma,
    Statistics,
    elbo,
    log_mean_given,
    log_squares_given,
)
from latentlab.classical.sources import NormalDraws
from latentlab.errors import UserError


def fitted(size=20, seed=0, **arguments):
    return converge(CAVINormalGamma(**arguments), NormalDraws(size, seed=seed).x, 1000)


@pytest.mark.parametrize("seed", range(5))
def test_the_elbo_never_decreases_and_stays_below_the_evidence(seed):
    model = fitted(size=5 + 10 * seed, seed=seed)
    bounds = torch.tensor(model.history.values["elbo"], dtype=torch.float64)
    assert bounds.diff().min() > -1e-9
    assert bounds.max() < model.prior.log_evidence(model.data)
    assert model.converged


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_the_fixed_point_zeroes_every_derivative_of_the_elbo(size):
    model = fitted(size, tolerance=0.0)
    q = torch.stack(model.q())
    gradient = torch.func.grad(lambda q: elbo(model.prior, model.data, *q))(q)
    torch.testing.assert_close(gradient * q, torch.zeros(4).double(), atol=1e-8, rtol=0)


def test_each_update_is_the_maximum_over_its_own_factor():
    model = CAVINormalGamma()
    model.begin([NormalDraws(20).x])
    for update, own in ((model.update_mu, (0, 1)), (model.update_tau, (2, 3))):
        update()
        q = torch.stack(model.q())
        gradient = torch.func.grad(lambda q: elbo(model.prior, model.data, *q))(q)
        assert gradient[list(own)].abs().max() < 1e-10
        others = [i for i in range(4) if i not in own]
        assert gradient[others].abs().max() > 1e-3


def test_means_are_exact_and_variances_too_small_by_known_factors():
    model = fitted(10, tolerance=0.0)
    q, exact, post = model.moments(), model.exact().moments(), model.exact()
    torch.testing.assert_close(q.mean_mu, exact.mean_mu, rtol=1e-12, atol=0)
    torch.testing.assert_close(q.mean_tau, exact.mean_tau, rtol=1e-12, atol=0)
    torch.testing.assert_close(q.var_mu / exact.var_mu, (post.a0 - 1) / post.a0, rtol=1e-12, atol=0)
    torch.testing.assert_close(q.var_tau / exact.var_tau, post.a0 / (post.a0 + 0.5), rtol=1e-12, atol=0)


def test_the_exact_posterior_against_quadrature():
    prior = NormalGamma(*torch.tensor([1.0, 0.1, 1.0, 2.0]).double())
    data = Statistics.of(NormalDraws(4).x.flatten())
    mu = torch.linspace(-40, 44, 2001).double()
    tau = torch.linspace(1e-5, 8, 1000).double()[:, None]
    log_joint = log_mean_given(data, mu, tau) + log_squares_given(data, tau) + prior.log_prob(mu, tau)
    weights = log_joint.exp() * (mu[1] - mu[0]) * (tau[1] - tau[0])
    torch.testing.assert_close(weights.sum().log(), prior.log_evidence(data), rtol=0, atol=1e-3)
    moments, weights = prior.posterior(data).moments(), weights / weights.sum()
    torch.testing.assert_close((weights * mu).sum(), moments.mean_mu, rtol=1e-3, atol=0)
    torch.testing.assert_close((weights * tau).sum(), moments.mean_tau, rtol=1e-3, atol=0)
    torch.testing.assert_close(
        (weights * mu**2).sum() - moments.mean_mu**2, moments.var_mu, rtol=1e-2, atol=0
    )


def test_the_bound_has_all_its_terms():
    """Its value is the mean of log p - log q under q. A derivative would not show a missing constant."""
    torch.manual_seed(0)
    x, q = NormalDraws(20).x.flatten(), torch.tensor([1.5, 7.0, 4.0, 6.0]).double()
    model = CAVINormalGamma()
    model.begin([x[:, None]])
    q_mu, q_tau = Normal(q[0], q[1] ** -0.5), Gamma(q[2], q[3])
    mu, tau = q_mu.sample((100_000,)), q_tau.sample((100_000,))
    prior = Normal(1.0, (0.1 * tau) ** -0.5).log_prob(mu) + Gamma(
        *torch.tensor([1.0, 2.0]).double()
    ).log_prob(tau)
    log_p = prior + Normal(mu, tau**-0.5).log_prob(x[:, None]).sum(0)
    log_w = log_p - q_mu.log_prob(mu) - q_tau.log_prob(tau)
    assert largest_z(log_w[:, None], elbo(model.prior, model.data, *q)[None]) < Z_MAX


def test_an_infinite_variance_is_left_out_of_the_report():
    """Var[mu] is infinite for a_N = 1, and JSON has no such number."""
    found = fitted(1, a0=0.5).estimates()
    assert "exact/var_mu" not in found
    assert all(map(math.isfinite, found.values()))


def test_the_factors_make_up_the_likelihood():
    x = NormalDraws(7).x.flatten()
    mu, tau = torch.tensor(0.3).double(), torch.tensor(1.7).double()
    data = Statistics.of(x)
    expected = torch.distributions.Normal(mu, tau**-0.5).log_prob(x).sum()
    torch.testing.assert_close(log_mean_given(data, mu, tau) + log_squares_given(data, tau), expected)


@pytest.mark.parametrize("name", ["lambda0", "a0", "b0"])
def test_hyperparameters_must_be_positive(name):
    with pytest.raises(UserError, match=f"{name}=-1.0 must be greater than 0"):
        CAVINormalGamma(**{name: -1.0})
