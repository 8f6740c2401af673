"""The bound of a diffusion as an objective: what it is, and which models go with it."""

import pytest
import torch
from gaussian_diffusion import Wavy
from oracles import tiny_vae
from torch import nn

from latentlab.errors import UserError
from latentlab.models.vdm import VDM
from latentlab.objectives import ELBO, IWAE, STL, VIMCO, VLB, AnalyticELBO, DReG, Reconstruction
from latentlab.protocols import Threshold
from latentlab.schedules import LinearSchedule

X = torch.ones(6, 1, 1, 2).double()


def vdm():
    return VDM(
        LinearSchedule(-13.3), lambda shape, **ends: Wavy(shape), Threshold(), x_shape=(1, 1, 2)
    ).double()


@pytest.mark.parametrize("samples", [1, 4])
def test_it_is_the_models_own_bound(samples):
    model, objective = vdm(), VLB(samples=samples)
    objective.check(model)
    torch.manual_seed(1)
    bound = objective(model, X)
    torch.manual_seed(1)
    terms = model.terms(X, samples=samples)
    torch.manual_seed(1)
    parts = objective.parts(model, X)
    assert torch.equal(bound, terms["elbo"]) and torch.equal(bound, parts[objective.bound])
    assert {"kl_prior", "kl_diffusion", "reconstruction"} < set(parts)


def test_other_objectives_name_nothing_beside_their_bound():
    assert list(IWAE(samples=3).parts(tiny_vae(), torch.ones(2, 1, 2, 2).double())) == ["iwae"]


@pytest.mark.parametrize("model", [tiny_vae(), nn.Linear(2, 2)], ids=["vae", "linear"])
def test_models_without_a_diffusion_are_refused(model):
    with pytest.raises(
        UserError, match=r"VLB is the bound of a diffusion, and .* has none: .*model=vdm"
    ) as caught:
        VLB().check(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", [ELBO(), AnalyticELBO(), STL(), IWAE(), DReG(), VIMCO()], ids=repr)
def test_objectives_of_drawn_latents_are_refused_for_a_diffusion(objective):
    with pytest.raises(UserError, match=r"VDM has none: .*objective=vlb for a diffusion"):
        objective.check(vdm())


def test_a_score_that_is_no_bound_is_refused_for_a_diffusion():
    with pytest.raises(UserError, match="Reconstruction is no bound"):
        Reconstruction().check(vdm())
