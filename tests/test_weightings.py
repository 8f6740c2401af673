"""The weightings of a diffusion's loss against their definitions, and the objective that uses them."""

import pytest
import torch
from gaussian_diffusion import Wavy

from latentlab.errors import UserError
from latentlab.models.vdm import VDM
from latentlab.objectives import VLB
from latentlab.protocols import Threshold
from latentlab.schedules import LearnedSchedule, LinearSchedule
from latentlab.trace import Scored
from latentlab.weightings import Bound, MinSNR, Simple, SimpleVelocity, TruncatedSNR

GAMMA = torch.linspace(-6, 6, 9, dtype=torch.float64)
SNR = (-GAMMA).exp()
PIXELS = torch.ones(6, 1, 1, 2).double()


def vdm(schedule=None, steps=5):
    schedule = schedule or LinearSchedule(-3.0, 2.0)
    return VDM(
        schedule, lambda shape, **ends: Wavy(shape), Threshold(), steps=steps, x_shape=(1, 1, 2)
    ).double()


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (Simple(), torch.ones_like(SNR)),
        (SimpleVelocity(), (SNR + 1) / SNR),
        (TruncatedSNR(), SNR.clamp(min=1) / SNR),
        (MinSNR(3.0), SNR.clamp(max=3.0) / SNR),
    ],
)
def test_weights_of_the_error_of_x_become_those_of_the_noise(weighting, expected):
    """The papers weight |x - x_hat|^2, which is |eps - eps_hat|^2 / SNR, but for the first."""
    torch.testing.assert_close(weighting(GAMMA, GAMMA), expected)


@pytest.mark.parametrize("steps", [5, None])
def test_the_simple_loss_is_that_of_the_bound_without_its_weights(steps):
    model = vdm(steps=steps)
    terms = model.weighted_terms(PIXELS, Simple())
    # gamma is linear: every term of the bound has the weight T / 2 expm1(5 / T), or 5 / 2 in the limit.
    weight = 2.5 if steps is None else 2.5 * torch.expm1(torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(terms["kl_diffusion"], weight * terms["simple_loss"])
    same = model.weighted_terms(PIXELS, Bound())
    torch.testing.assert_close(same["kl_diffusion"], same["bound_loss"])
    torch.testing.assert_close(
        terms["weighted_elbo"], terms["elbo"] + terms["kl_diffusion"] - terms["simple_loss"]
    )


def test_a_weighted_objective_has_the_value_of_the_bound_and_the_gradient_of_the_loss():
    model, objective = vdm(), VLB(weighting=MinSNR())
    objective.check(model)
    torch.manual_seed(1)
    bound = objective(model, PIXELS)
    torch.manual_seed(1)
    terms = model.weighted_terms(PIXELS, MinSNR())
    torch.testing.assert_close(bound, terms["elbo"])
    weight = model.diffusion.denoiser.weight
    (found,) = torch.autograd.grad(bound.sum(), weight)
    (exact,) = torch.autograd.grad(-terms["min_snr_loss"].sum(), weight)
    torch.testing.assert_close(found, exact)
    assert objective.criterion == "weighted_elbo"
    assert set(objective.validation_terms(model, PIXELS)) == {"weighted_elbo", "min_snr_loss"}
    assert "min_snr_loss" in objective.parts(model, PIXELS)


def test_weightings_need_a_diffusion_with_a_fixed_schedule():
    with pytest.raises(UserError, match=r"weighting=simple .*noise_schedule=linear"):
        VLB(weighting=Simple()).check(vdm(LearnedSchedule(-3.0, 2.0)))

    class Likelihood(Scored):
        def terms(self, x, samples=1):
            return {"elbo": x}

    with pytest.raises(UserError, match=r"weighting=simple .*Likelihood .*weighting=bound"):
        VLB(weighting=Simple()).check(Likelihood())
