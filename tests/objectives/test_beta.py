"""The weight on the KL: its schedule, and free bits."""

import pytest
import torch
from estimates import exact_gradient
from linear_gaussian import LinearGaussian

from latentlab.objectives import ELBO, AnalyticELBO, BetaELBO, Clock


def weights(objective, steps, steps_per_epoch=10):
    return [objective.at(Clock(step, steps_per_epoch)).beta for step in steps]


def test_without_a_warmup_the_weight_is_beta_from_the_start():
    assert weights(BetaELBO(beta=4.0), [0, 1, 1000]) == [4.0] * 3


@pytest.mark.parametrize(
    "warmup", [{"warmup_epochs": 2.0}, {"warmup_steps": 20}, {"warmup_epochs": 1.5, "warmup_steps": 5}]
)
def test_linear_warmup(warmup):
    assert weights(BetaELBO(beta=4.0, **warmup), [0, 5, 10, 20, 21, 1000]) == [0.0, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_cycles():
    # Fu et al. 2019: rising for half of each cycle, then at beta.
    objective = BetaELBO(beta=2.0, warmup_epochs=2.0, cycle_epochs=4.0)
    assert weights(objective, [0, 10, 20, 39, 40, 50, 60, 79, 80]) == [0, 1, 2, 2, 0, 1, 2, 2, 0]


def test_only_the_weight_depends_on_the_time():
    objective = BetaELBO(samples=3, beta=2.0, warmup_epochs=2.0, free_bits=0.5)
    at = objective.at(Clock(5, 10))
    assert (at.samples, at.beta, at.free_bits) == (3, 0.5, 0.5)
    assert objective.beta == 2.0
    assert ELBO(4).at(Clock(5, 10)) == ELBO(4)


def pieces(model, x, **arguments):
    """The bound, the reconstruction and the KLs, averaged over the batch, for one draw."""
    torch.manual_seed(1)
    bound = BetaELBO(**arguments)(model, x).mean()
    torch.manual_seed(1)
    terms = model(x).terms()
    kls = [terms[name].mean() for name in sorted(terms) if name.startswith("kl_")]
    return bound, terms["elbo"].mean(), terms["reconstruction"].mean(), kls


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_free_bits_charge_the_larger_of_the_two_layer_by_layer(levels):
    model = LinearGaussian([3, 2, 2, 1][: levels + 1])
    x = torch.randn(6, 3).double()
    floors = [0.0, *[kl.item() + 1e-6 for kl in pieces(model, x)[3]], 100.0]
    for floor in floors:
        bound, elbo, reconstruction, kls = pieces(model, x, beta=0.7, free_bits=floor)
        charged = sum(kl if kl > floor or not floor else floor for kl in kls)
        torch.testing.assert_close(bound, elbo)
        torch.testing.assert_close(
            exact_gradient(bound, model), exact_gradient(reconstruction - 0.7 * charged, model)
        )


def test_free_bits_average_over_the_batch_before_they_compare():
    # One example is above the floor, the other beneath: the mean decides.
    model = LinearGaussian([3, 2])
    x = torch.tensor([[0.0, 0.0, 0.0], [3.0, 3.0, 3.0]]).double()
    kl = model(x).terms()["kl_1"]
    floor = kl.mean().item() * 0.9
    assert kl.min() < floor < kl.max()
    bound, _, reconstruction, (mean,) = pieces(model, x, free_bits=floor)
    torch.testing.assert_close(exact_gradient(bound, model), exact_gradient(reconstruction - mean, model))


def test_with_a_weight_of_one_it_is_the_analytic_elbo():
    model, x = LinearGaussian([3, 2, 2]), torch.randn(4, 3).double()
    results = []
    for objective in (BetaELBO(2), AnalyticELBO(2)):
        torch.manual_seed(1)
        bound = objective(model, x)
        results.append((bound, exact_gradient(bound.sum(), model)))
    torch.testing.assert_close(*results)
