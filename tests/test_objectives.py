"""Every objective on linear-Gaussian hierarchies of one, two and three layers, against exact values."""

import pytest
import torch
from estimates import estimates, exact_gradient, is_inference
from linear_gaussian import LinearGaussian
from oracles import Z_MAX, largest_z

from latentlab.objectives import ELBO, IWAE, STL, VIMCO, AnalyticELBO, BetaELBO, DReG, ScoreFunction

LEVELS = [1, 2, 3]
SIZES = [3, 2, 2, 1]  # of x, z_1, z_2, z_3
DRAWS = 20_000
OF_THE_ELBO = [ELBO(2), AnalyticELBO(), STL(), ScoreFunction(3), BetaELBO(), IWAE(1), DReG(1)]
OF_IWAE = [IWAE(3), DReG(3), VIMCO(3)]


def linear_gaussian(levels):
    return LinearGaussian(SIZES[: levels + 1])


def an_x():
    return torch.tensor([0.4, -1.1, 0.8]).double()


@pytest.mark.parametrize("levels", LEVELS)
def test_the_oracle_knows_its_own_posterior(levels):
    model = linear_gaussian(levels)
    assert model.exact_elbo(an_x()) < model.log_likelihood(an_x()) - 0.1
    model.make_posterior_exact()
    log_px = model.log_likelihood(an_x())
    torch.testing.assert_close(model.exact_elbo(an_x()), log_px)
    # Every draw has the same weight there: the algebra, the model's scores and its draws agree.
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
    # The plain gradient is automatic differentiation of an unbiased estimate; test_quadrature has it exactly.
    model = linear_gaussian(levels)
    values, gradients = estimates(objective, model, an_x(), DRAWS)
    plain_values, plain_gradients = estimates(IWAE(3), model, an_x(), DRAWS)
    assert largest_z(values - plain_values, torch.tensor(0.0)) < Z_MAX
    assert largest_z(gradients - plain_gradients, torch.tensor(0.0)) < Z_MAX


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("objective", OF_THE_ELBO + OF_IWAE, ids=repr)
def test_gradient_at_the_exact_posterior_is_that_of_log_px(objective, levels):
    model = linear_gaussian(levels)
    log_px = model.log_likelihood(an_x())
    model.make_posterior_exact()
    values, gradients = estimates(objective, model, an_x(), DRAWS)
    if not isinstance(objective, AnalyticELBO | BetaELBO):
        torch.testing.assert_close(values, log_px.expand_as(values))
    assert largest_z(values, log_px) < Z_MAX
    # In q's own parameters it is zero: the bound is at its top.
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
