"""Distributions against sums, integrals and draws."""

import numpy as np
import pytest
import torch
from oracles import Z_MAX, largest_z
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    kl_divergence,
)
from torch.distributions import ContinuousBernoulli as TorchContinuousBernoulli

from latentlab.distributions import (
    ContinuousBernoulli,
    DiscretisedLogistic,
    GumbelSoftmax,
    LogitBernoulli,
    Mixture,
    OneHot,
)

DRAWS = 40_000
LOGITS = [-300.0, -40.0, -9.0, -0.3, -0.2, -1e-3, 0.0, 1e-9, 1e-2, 0.19999, 0.8, 12.0, 300.0]
LEVELS = torch.arange(256).double() / 255


def unit_interval_rule(points=200):
    """Gauss-Legendre nodes and weights on subintervals of [0, 1] that shrink towards both ends."""
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(points))
    cuts = torch.tensor([0.0, 0.02, 0.1, 0.5, 0.9, 0.98, 1.0]).double()
    widths = cuts.diff()
    return (cuts[:-1] + widths * (nodes[:, None] + 1) / 2).flatten(), (
        weights[:, None] * widths / 2
    ).flatten()


def one_hot(indices, size):
    return torch.nn.functional.one_hot(indices, size).double()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_logit_bernoulli_is_torchs(value):
    logits = torch.tensor(LOGITS).expand(3, 2, -1)
    x = torch.full((2, len(LOGITS)), value)
    exact = Bernoulli(logits=logits.double()).log_prob(x.double())
    scored = LogitBernoulli(logits=logits).log_prob(x)
    assert torch.equal(scored, Bernoulli(logits=logits).log_prob(x))  # with gradients
    with torch.no_grad():
        torch.testing.assert_close(
            LogitBernoulli(logits=logits).log_prob(x).double(), exact, rtol=1e-6, atol=1e-6
        )
        with pytest.raises(ValueError, match="support"):
            LogitBernoulli(logits=logits, validate_args=True).log_prob(x + 0.5)


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_integrates_to_one_with_its_mean(logit):
    x, weights = unit_interval_rule()
    p = ContinuousBernoulli(torch.tensor(logit).double())
    density = p.log_prob(x).exp()
    assert (weights * density).sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (weights * density * x).sum().item() == pytest.approx(p.mean.item(), abs=1e-12)


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_gradient_is_x_minus_mean(logit):
    # The derivative of eta x - A(eta). The values of eta lie on both sides of the switch to the series.
    eta = torch.tensor(logit).double().requires_grad_()
    p = ContinuousBernoulli(eta)
    (gradient,) = torch.autograd.grad(p.log_prob(torch.tensor(0.25).double()), eta)
    torch.testing.assert_close(gradient, 0.25 - p.mean.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_in_single_precision(logit):
    x = torch.linspace(0, 1, 11)
    single, double = (
        ContinuousBernoulli(torch.tensor(logit, dtype=d)) for d in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.log_prob(x).double(), double.log_prob(x.double()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.mean.double(), double.mean, rtol=0, atol=1e-6)


def test_continuous_bernoulli_is_torchs_where_that_is_right():
    logits = torch.linspace(-6, 6, 7).double()
    theirs, ours, x = (
        TorchContinuousBernoulli(logits=logits),
        ContinuousBernoulli(logits),
        torch.rand(9, 7).double(),
    )
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=0, atol=1e-6)


def test_continuous_bernoulli_draws_have_its_mean():
    p = ContinuousBernoulli(torch.tensor(LOGITS).double())
    x = p.sample((DRAWS,))
    assert p.support.check(x).all()
    assert largest_z(x, p.mean) < Z_MAX


@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1e-3, 0.05, 1.0, 1e3])
@pytest.mark.parametrize("loc", [-2.0, 0.0, 0.31, 1.0, 1.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discretised_logistic_sums_to_one_with_its_mean(loc, scale, dtype):
    p = DiscretisedLogistic(torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype))
    probabilities = p.log_prob(LEVELS.to(dtype)).exp()
    tolerance = 2e-5 if dtype is torch.float32 else 1e-10
    assert probabilities.sum().item() == pytest.approx(1.0, abs=tolerance)
    assert (probabilities * LEVELS).sum().item() == pytest.approx(p.mean.item(), abs=tolerance)


def test_discretised_logistic_stays_finite_far_out():
    loc, log_scale = torch.tensor(0.0, requires_grad=True), torch.tensor(-7.0, requires_grad=True)
    log_p = DiscretisedLogistic(loc, log_scale.exp()).log_prob(LEVELS.float())
    gradients = torch.autograd.grad(log_p.sum(), [loc, log_scale])
    assert log_p.isfinite().all() and all(gradient.isfinite() for gradient in gradients)
    assert log_p[255].item() == pytest.approx(-(1 - 1 / 510) * torch.tensor(7.0).exp().item(), rel=1e-3)


def test_discretised_logistic_draws_follow_its_probabilities():
    p = DiscretisedLogistic(
        torch.tensor([0.01, 0.5, 0.98]).double(), torch.tensor([0.02, 0.004, 0.05]).double()
    )
    x = p.sample((DRAWS,))
    hits = (x[..., None] - LEVELS).abs() < 1e-9  # (N, 3, 256)
    exact = p.log_prob(LEVELS[:, None]).exp().T
    assert (hits.sum(-1) == 1).all()
    often = exact * DRAWS > 100
    assert largest_z(hits[:, often].double(), exact[often]) < Z_MAX
    assert largest_z(x, p.mean) < Z_MAX


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_one_hot_scores_are_those_of_the_categorical(temperature):
    logits = torch.randn(3, 4).double()
    ours, torchs = GumbelSoftmax(temperature, logits), OneHotCategorical(logits=logits)
    z = torchs.sample((50,))
    torch.testing.assert_close(ours.log_prob(z), torchs.log_prob(z))
    torch.testing.assert_close(ours.entropy(), torchs.entropy())
    torch.testing.assert_close(
        kl_divergence(ours, OneHot(logits=torch.zeros(3, 4).double())),
        torch.tensor(4.0).double().log() - ours.entropy(),
    )


def test_gumbel_softmax_draws():
    p = GumbelSoftmax(0.7, torch.randn(2, 3).double().requires_grad_())
    exact = p.sample((DRAWS,))
    assert ((exact == 0) | (exact == 1)).all() and (exact.sum(-1) == 1).all() and not exact.requires_grad
    assert largest_z(exact, p.probs.detach()) < Z_MAX
    relaxed = p.rsample((DRAWS,))
    torch.testing.assert_close(relaxed.sum(-1), torch.ones(DRAWS, 2).double())
    assert relaxed.requires_grad and relaxed.max() < 1
    # The largest entry of a relaxed draw is distributed as the exact draw (the Gumbel-max trick).
    assert largest_z(one_hot(relaxed.argmax(-1), 3), p.probs.detach()) < Z_MAX
    p.log_prob(relaxed).sum().backward()
    assert p.expand((5, 2)).rsample((4,)).shape == (4, 5, 2, 3)


def test_relaxed_draws_become_one_hot_as_the_temperature_falls():
    logits = torch.randn(200, 5).double()
    ends = [GumbelSoftmax(temperature, logits).rsample().amax(-1).mean() for temperature in (5.0, 0.5, 0.01)]
    assert ends[0] < ends[1] < ends[2] and ends[2] > 0.98


@pytest.mark.parametrize("shape", [(7,), (3, 5000), ()])
def test_mixture_in_parts_scores_as_torchs_whole(shape):
    parts = (
        Categorical(logits=torch.randn(40).double()),
        Independent(Normal(torch.randn(40, 6).double(), torch.rand(40, 6).double() + 0.1), 1),
    )
    z = torch.randn(*shape, 6).double()
    assert Mixture(*parts).log_prob(z).shape == shape
    torch.testing.assert_close(Mixture(*parts).log_prob(z), MixtureSameFamily(*parts).log_prob(z))


def full_rank_pair():
    tril = torch.randn(4, 3, 3).double().tril(-1) + (torch.randn(4, 3).double() / 2).exp().diag_embed()
    q = MultivariateNormal(torch.randn(4, 3).double(), scale_tril=tril)
    return q, Independent(Normal(torch.randn(3).double(), torch.rand(3).double() + 0.5), 1)


def test_full_rank_kl_to_a_diagonal_normal():
    q, p = full_rank_pair()
    torch.testing.assert_close(
        kl_divergence(q, p),
        kl_divergence(q, MultivariateNormal(p.mean, scale_tril=p.stddev.diag())),
    )
    z = q.sample((DRAWS,))
    assert largest_z(q.log_prob(z) - p.log_prob(z), kl_divergence(q, p)) < Z_MAX


@pytest.mark.parametrize("base", [Laplace(torch.zeros(3), 1.0), Bernoulli(torch.full((3,), 0.5))])
def test_full_rank_kl_to_others_has_no_closed_form(base):
    q, _ = full_rank_pair()
    with pytest.raises(NotImplementedError):
        kl_divergence(q, Independent(base, 1))
