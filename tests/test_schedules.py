"""Noise schedules: monotone, exact at their ends, with the derivative as slope."""

import pytest
import torch

from latentlab.errors import UserError
from latentlab.schedules import (
    CosineSchedule,
    LearnedSchedule,
    LinearBetaSchedule,
    LinearSchedule,
    alpha,
    sigma,
)

KINDS = [LinearSchedule, CosineSchedule, LearnedSchedule]
T = torch.linspace(0, 1, 1001, dtype=torch.float64)


ENDS = (-13.3, 5.0)


def scrambled(kind, *ends):
    """A schedule in float64 with parameters far from their start."""
    made = kind(*(ends or ENDS)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(2 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", [(-13.3, 5.0), (-3.0, 11.0), (1.0, 1.5)])
def test_gamma_rises_from_end_to_end(kind, ends):
    gamma, slope = scrambled(kind, *ends)(T)
    assert gamma[[0, -1]].tolist() == list(ends)
    assert (gamma.diff() > 0).all() and (slope > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_end_points_are_exact_in_single_precision(kind):
    gamma, _ = kind(*ENDS)(torch.tensor([0.0, 1.0, 0.0]))
    assert gamma.tolist() == torch.tensor([-13.3, 5.0, -13.3]).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_slope_is_the_derivative(kind):
    schedule, t = scrambled(kind), T.clone().requires_grad_()
    gamma, slope = schedule(t)
    (derivative,) = torch.autograd.grad(gamma.sum(), t)
    inside = slice(1, -1)  # the cosine's ends are put in place, without a slope
    torch.testing.assert_close(slope[inside], derivative[inside], rtol=1e-10, atol=0)
    # The slope at the ends too, by the area under it.
    assert torch.trapezoid(slope, T).item() == pytest.approx(18.3, rel=2e-2)


def test_cosine_is_that_of_its_authors():
    gamma, _ = CosineSchedule(-12.0, 12.0).double()(T)
    angle = torch.acos(alpha(gamma))
    torch.testing.assert_close(angle.diff(), angle.diff().mean().expand(1000), rtol=1e-8, atol=0)


def test_learned_starts_close_to_linear():
    difference = LearnedSchedule(*ENDS).double()(T).gamma - LinearSchedule(*ENDS)(T).gamma
    assert difference.abs().max() < 0.05 * 18.3


@pytest.mark.parametrize("gamma", [-40.0, 0.0, 5.0, 40.0])
def test_signal_and_noise_preserve_the_variance(gamma):
    gamma = torch.tensor(gamma, dtype=torch.float64)
    assert (alpha(gamma) ** 2 + sigma(gamma) ** 2).item() == pytest.approx(1, abs=1e-15)
    assert (2 * (sigma(gamma).log() - alpha(gamma).log())).item() == pytest.approx(gamma.item(), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_gamma_and_of_slope_is_trained(kind):
    schedule = scrambled(kind)
    for part in schedule(T[1:-1]):
        for name, parameter in schedule.named_parameters():
            (grad,) = torch.autograd.grad((part * T[1:-1]).sum(), parameter, retain_graph=True)
            assert grad.isfinite().all() and grad.any(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", [(5.0, -13.3), (1.0, 1.0)])
def test_end_points_the_wrong_way_round_are_refused(kind, ends):
    with pytest.raises(
        UserError, match=f"noise_schedule.gamma_min={ends[0]}.* must be the smaller"
    ) as caught:
        kind(*ends)
    assert "\n" not in str(caught.value)


def test_the_models_default_is_used_if_no_gamma_min_is_given():
    left_open = LinearSchedule(gamma_max=2.0)
    with pytest.raises(ValueError, match="gamma_min is not set"):
        left_open(T)
    assert left_open.with_default(-4.0)(T).gamma[0].item() == -4.0
    assert "gamma_min=-4.0" in repr(left_open)
    assert LinearSchedule(-6.0).with_default(-4.0).gamma_min == -6.0
    with pytest.raises(UserError, match="noise_schedule"):
        LinearSchedule(gamma_max=-5.0).with_default(-4.0)


# -- Linear beta


def test_linear_betas_give_the_product_of_the_paper():
    """Ho et al. 2020, section 4: beta from 1e-4 to 0.02 in 1,000 steps, and their x_i at the time i / T."""
    products = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    schedule = LinearBetaSchedule().double()
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    gamma, _ = schedule(t)
    torch.testing.assert_close(alpha(gamma) ** 2, products, rtol=1e-5, atol=0)
    torch.testing.assert_close(sigma(gamma) ** 2, 1 - products, rtol=1e-5, atol=0)
    assert schedule(torch.zeros(1)).gamma.item() == -13.3


def test_linear_betas_are_interpolated_with_their_slope():
    schedule = LinearBetaSchedule(steps=10, beta_max=0.5).double()
    t = (torch.arange(40, dtype=torch.float64) + 0.5) / 40
    gamma, slope = schedule(t)
    assert (gamma.diff() > 0).all()
    torch.testing.assert_close((schedule(t + 1e-6).gamma - gamma) / 1e-6, slope, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"gamma_min": -5.0}, "gamma_min=-5.0"), ({"steps": 10_000}, "beta_max=0.02")],
)
def test_linear_betas_out_of_range_are_refused(options, key):
    with pytest.raises(UserError, match=f"noise_schedule.{key}"):
        LinearBetaSchedule(**options)
