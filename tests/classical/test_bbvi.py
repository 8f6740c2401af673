"""Black-box inference: unbiased in every variant, less noisy with each remedy, and convergent to the CAVI optimum."""

import itertools
from copy import deepcopy
from functools import partial

import pytest
import torch
from oracles import Z_MAX, largest_z
from torch.distributions import Gamma, Normal
from torch.optim import Adam

from latentlab.classical.base import converge
from latentlab.classical.bbvi import BBVINormalGamma, RobbinsMonro
from latentlab.classical.normal_gamma import CAVINormalGamma, elbo
from latentlab.classical.sources import NormalDraws
from latentlab.errors import UserError
from latentlab.run import legacy

X = NormalDraws(20).x
VARIANTS = list(itertools.product([False, True], repeat=2))
THETA = torch.tensor([1.5, -1.0, 1.0, 1.5]).double()
STEP_SIZES = pytest.mark.parametrize(
    "step_size",
    [partial(RobbinsMonro, offset=100, exponent=0.7), partial(Adam, lr=0.02)],
    ids=["robbins_monro", "adam"],
)


def at(theta, step_size=RobbinsMonro, **arguments):
    model = BBVINormalGamma(step_size, **arguments)
    model.begin([X])
    model.theta.copy_(theta)
    return model


def gradients(model, samples, n=4000):
    """n gradients of `samples` draws each, (n, 4)."""
    return model.contributions(samples, n).mean(0)


def analytic(model):
    def bound(theta):
        m, log_s, log_a, log_b = theta
        return elbo(model.prior, model.data, m, (-2 * log_s).exp(), log_a.exp(), log_b.exp())

    return torch.func.grad(bound)(model.theta)


def optimum():
    m, precision, a, b = converge(CAVINormalGamma(), X, 100).q()
    return torch.stack([m, -0.5 * precision.log(), a.log(), b.log()])


@pytest.mark.parametrize(("control_variates", "rao_blackwell"), VARIANTS)
@pytest.mark.parametrize("samples", [2, 5])
def test_the_gradient_is_unbiased(control_variates, rao_blackwell, samples):
    model = at(THETA, control_variates=control_variates, rao_blackwell=rao_blackwell)
    assert largest_z(gradients(model, samples), analytic(model)) < Z_MAX


def test_scores_are_the_derivatives_of_log_q():
    draws = at(THETA).draw(6)

    def log_q(theta):
        m, log_s, log_a, log_b = theta
        return Normal(m, log_s.exp()).log_prob(draws.mu) + Gamma(log_a.exp(), log_b.exp()).log_prob(draws.tau)

    torch.testing.assert_close(draws.log_q_mu + draws.log_q_tau, log_q(THETA))
    torch.testing.assert_close(draws.scores, torch.func.jacrev(log_q)(THETA))


@pytest.mark.parametrize("theta", [THETA, optimum()], ids=["away", "optimum"])
def test_both_remedies_reduce_the_variance(theta):
    plain, rao_blackwell, control_variates, both = (
        gradients(at(theta, control_variates=cv, rao_blackwell=rb), 10).var(0) for cv, rb in VARIANTS
    )
    assert (control_variates < 0.5 * plain).all()
    # The parameters of mu alone: all factors but q(mu) contain tau.
    assert (rao_blackwell[:2] < 0.5 * plain[:2]).all()
    assert (both < 0.5 * plain).all()


def test_the_recorded_variance_is_that_of_the_gradient():
    model = at(THETA, control_variates=False, samples=20)
    torch.manual_seed(1)
    estimate = model.contributions(20).var(0) / 20
    torch.manual_seed(1)
    model.step()
    torch.testing.assert_close(model.variance, estimate, rtol=0, atol=0)
    contributions = at(THETA, control_variates=False).contributions(20, 4000)
    estimates = contributions.var(0) / 20
    torch.testing.assert_close(estimates.mean(0), contributions.mean(0).var(0), rtol=0.2, atol=0)


@STEP_SIZES
def test_it_converges_to_the_cavi_optimum(step_size):
    model = converge(BBVINormalGamma(step_size, samples=20, tolerance=0.0), X, 2000)
    best = converge(CAVINormalGamma(), X, 100).elbo()
    assert 0 < best - model.elbo() < 0.02
    m, _, a, b = model.q()
    exact = model.exact().moments()
    assert abs(m - exact.mean_mu) < 0.2 * exact.var_mu**0.5
    assert abs(a / b - exact.mean_tau) < 0.2 * exact.var_tau**0.5


@STEP_SIZES
def test_the_state_of_the_optimiser_is_saved(step_size):
    model, other = at(THETA, step_size), at(THETA, step_size)
    for _ in range(3):
        model.step()
    other.load_state_dict(deepcopy(model.state_dict()))
    for each in (model, other):
        torch.manual_seed(1)
        each.step()
    assert torch.equal(model.theta, other.theta)


def test_no_step_is_larger_than_the_limit():
    model = at(THETA, partial(Adam, lr=10.0), max_step=0.1)
    model.step()
    torch.testing.assert_close((model.theta - THETA).abs(), torch.full((4,), 0.1).double())


def test_robbins_monro_steps_shrink_as_stated():
    theta = torch.zeros(1)
    optimizer = RobbinsMonro([theta], offset=4.0, exponent=0.5 + 1e-9)
    theta.grad = -torch.ones(1)
    optimizer.step()
    torch.testing.assert_close(theta, torch.tensor([4**-0.5]))
    optimizer.step()
    torch.testing.assert_close(theta, torch.tensor([4**-0.5 + 5**-0.5]))


def test_the_moments_of_an_older_version_continue():
    """Its own Adam ascended, with both moments in one tensor."""
    first, second = torch.tensor([0.1, -0.2, 0.3, 0.4]), torch.tensor([0.5, 0.6, 0.7, 0.8])
    old = {"model.steps.t": torch.tensor(2.0), "model.steps.moments": torch.stack([first, second]).double()}
    model = at(THETA, partial(Adam, lr=0.02))
    model.set_extra_state(legacy.todays_weights(old, {})["model._extra_state"])
    g = torch.ones(4).double()
    model.theta.grad = -g
    model.optimizer.step()
    mean = (0.9 * first + 0.1 * g) / (1 - 0.9**3)
    square = (0.999 * second + 0.001 * g**2) / (1 - 0.999**3)
    torch.testing.assert_close(model.theta, THETA + 0.02 * mean / (square.sqrt() + 1e-8))


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="samples=1: at least 2"):
        BBVINormalGamma(RobbinsMonro, samples=1)
    with pytest.raises(UserError, match=r"step_size\.exponent=2: .*\(0\.5, 1\]"):
        BBVINormalGamma(partial(RobbinsMonro, exponent=2))
    with pytest.raises(UserError, match="step_size: Invalid learning rate"):
        BBVINormalGamma(partial(Adam, lr=-1))
