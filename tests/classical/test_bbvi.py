"""Black-box inference: unbiased in every variant, quieter with each remedy, and at the CAVI optimum in the end."""

import itertools
from functools import partial

import pytest
import torch
from oracles import Z_MAX, largest_z
from torch.optim import Adam

from latentlab.classical.base import run
from latentlab.classical.bbvi import BBVINormalGamma, RobbinsMonro
from latentlab.classical.normal_gamma import CAVINormalGamma, elbo
from latentlab.classical.sources import NormalDraws
from latentlab.errors import UserError

X = NormalDraws(20).x
VARIANTS = list(itertools.product([False, True], repeat=2))
THETA = torch.tensor([1.5, -1.0, 1.0, 1.5]).double()


def at(theta, **arguments):
    model = BBVINormalGamma(RobbinsMonro, **arguments)
    model.begin([X])
    model.theta.copy_(theta)
    return model


def analytic(model):
    def bound(theta):
        m, log_s, log_a, log_b = theta
        return elbo(model.prior, model.data, m, (-2 * log_s).exp(), log_a.exp(), log_b.exp())

    return torch.func.grad(bound)(model.theta)


def optimum():
    m, precision, a, b = run(CAVINormalGamma(), X, 100).q()
    return torch.stack([m, -0.5 * precision.log(), a.log(), b.log()])


@pytest.mark.parametrize(("control_variates", "rao_blackwell"), VARIANTS)
@pytest.mark.parametrize("samples", [2, 5])
def test_the_gradient_is_unbiased(control_variates, rao_blackwell, samples):
    model = at(THETA, control_variates=control_variates, rao_blackwell=rao_blackwell)
    # With two draws the control variate's coefficient has a heavy tail: it is a ratio of single draws.
    draws = torch.stack([model.contributions(samples).mean(0) for _ in range(4000)])
    assert largest_z(draws, analytic(model)) < Z_MAX


def test_scores_are_the_derivatives_of_log_q():
    model = at(THETA)
    draws = model.draw(6)

    def log_q(theta):
        m, log_s, log_a, log_b = theta
        mu = torch.distributions.Normal(m, log_s.exp()).log_prob(draws.mu)
        return mu + torch.distributions.Gamma(log_a.exp(), log_b.exp()).log_prob(draws.tau)

    torch.testing.assert_close(draws.log_q_mu + draws.log_q_tau, log_q(THETA))
    torch.testing.assert_close(draws.scores, torch.func.jacrev(log_q)(THETA))


def variances(theta):
    found = {}
    for control_variates, rao_blackwell in VARIANTS:
        model = at(theta, control_variates=control_variates, rao_blackwell=rao_blackwell)
        draws = torch.stack([model.contributions(10).mean(0) for _ in range(1500)])
        found[control_variates, rao_blackwell] = draws.var(0)
    return found


@pytest.mark.parametrize("theta", [THETA, optimum()], ids=["away", "optimum"])
def test_both_remedies_reduce_the_variance(theta):
    found = variances(theta)
    plain = found[False, False]
    assert (found[True, False] < 0.5 * plain).all()
    # Of mu's parameters: tau's factors but for q(mu) are the whole joint.
    assert (found[False, True][:2] < 0.5 * plain[:2]).all()
    assert (found[True, True] < 0.5 * plain).all()


def test_the_recorded_variance_is_that_of_the_gradient():
    model = at(THETA, control_variates=False, samples=20)
    recorded = []
    for _ in range(1500):
        model.theta.copy_(THETA)
        model.step()
        recorded.append(model.variance.clone())
    model.theta.copy_(THETA)
    draws = torch.stack([model.contributions(20).mean(0) for _ in range(1500)])
    torch.testing.assert_close(torch.stack(recorded).mean(0), draws.var(0), rtol=0.2, atol=0)


@pytest.mark.parametrize(
    "step_size",
    [partial(RobbinsMonro, offset=100, exponent=0.7), partial(Adam, lr=0.02)],
    ids=["robbins_monro", "adam"],
)
def test_it_converges_to_the_cavi_optimum(step_size):
    model = run(BBVINormalGamma(step_size, samples=20, tolerance=0.0), X, 3000)
    best = run(CAVINormalGamma(), X, 100).elbo()
    assert 0 < best - model.elbo() < 0.02
    m, _, a, b = model.q()
    exact = model.exact().moments()
    assert abs(m - exact.mean_mu) < 0.2 * exact.var_mu**0.5
    assert abs(a / b - exact.mean_tau) < 0.2 * exact.var_tau**0.5


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="samples=1: at least 2 draws"):
        BBVINormalGamma(RobbinsMonro, samples=1)
    with pytest.raises(UserError, match=r"exponent=0\.4"):
        BBVINormalGamma(partial(RobbinsMonro, exponent=0.4))
    with pytest.raises(UserError, match="step_size: Invalid learning rate"):
        BBVINormalGamma(partial(Adam, lr=-1))
