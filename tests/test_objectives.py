"""Contracts of objectives: models they refuse, schedules of the KL weight, and named parts."""

import pytest
import torch
from binary_chain import BinaryChain
from estimates import exact_gradient
from gaussian_diffusion import Wavy
from linear_gaussian import LinearGaussian
from oracles import tiny_vae
from torch import nn

from latentlab.errors import UserError
from latentlab.models.vdm import VDM
from latentlab.objectives import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    RWS,
    STL,
    TVO,
    VIMCO,
    VLB,
    AnalyticELBO,
    BetaELBO,
    Clock,
    DReG,
    Reconstruction,
    ScoreFunction,
)
from latentlab.posteriors import GumbelSoftmaxPosterior
from latentlab.priors import CategoricalPrior
from latentlab.protocols import Threshold
from latentlab.schedules import LinearSchedule

PATHWISE = [ELBO(), AnalyticELBO(), STL(), IWAE(), DReG(), BetaELBO(), MIWAE(), PIWAE(), CIWAE()]
SCORE = [ScoreFunction(), VIMCO(), TVO(), RWS()]
RELAXABLE = [ELBO(), AnalyticELBO(), BetaELBO(), *SCORE]
TWICE = [STL(), DReG(), PIWAE(), *SCORE]


@pytest.mark.parametrize("objective", PATHWISE + SCORE, ids=repr)
def test_a_model_of_reparametrised_latents_takes_all(objective):
    objective.check(tiny_vae())
    objective.check(LinearGaussian([3, 2, 2]))


@pytest.mark.parametrize("objective", SCORE, ids=repr)
def test_latents_without_a_path_take_score_functions(objective):
    objective.check(BinaryChain([3, 2]))


@pytest.mark.parametrize("objective", PATHWISE, ids=repr)
def test_latents_without_a_path_refuse_the_others(objective):
    with pytest.raises(
        UserError, match="no path: choose objective=score_function, vimco, tvo or rws"
    ) as error:
        objective.check(BinaryChain([3, 2]))
    assert type(objective).__name__ in str(error.value) and "BinaryChain" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("objective", PATHWISE + SCORE, ids=repr)
def test_a_relaxed_path_is_taken_where_no_density_of_its_draws_is_needed(objective):
    vae = tiny_vae(posterior=GumbelSoftmaxPosterior, prior=CategoricalPrior)
    if objective in RELAXABLE:
        objective.check(vae)
        assert objective(vae, torch.ones(3, 1, 2, 2).double()).shape == (3,)
    else:
        with pytest.raises(
            UserError, match="discrete latents are relaxed there: choose objective=analytic_elbo"
        ):
            objective.check(vae)


@pytest.mark.parametrize("objective", PATHWISE + SCORE, ids=repr)
def test_a_model_without_a_trace_is_refused(objective):
    with pytest.raises(UserError, match="needs the log-densities of drawn latents, and Linear has none"):
        objective.check(nn.Linear(2, 2))


@pytest.mark.parametrize("objective", PATHWISE + SCORE, ids=repr)
def test_an_ensemble_that_would_decode_with_two_members_is_refused(objective):
    vae = tiny_vae(decoders=2)
    if type(objective).__name__ in ("PIWAE", "DReG"):
        with pytest.raises(UserError, match=r"model.decoders=1"):
            objective.check(vae)
    else:
        objective.check(vae)


@pytest.mark.parametrize("objective", PATHWISE + SCORE, ids=repr)
@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(4)], ids=repr)
def test_two_passes_must_be_the_same_function(objective, layer):
    def noisy(in_shape, out_shape):
        size = torch.Size(out_shape)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(4, 4), layer, nn.Linear(4, size.numel()), nn.Unflatten(1, size)
        )

    vae = tiny_vae(encoder=noisy)
    if objective in TWICE:
        with pytest.raises(UserError, match=r"twice on the same draws.*choose objective="):
            objective.check(vae)
    else:
        objective.check(vae)


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
    # Fu et al. 2019: the weight rises for half of each cycle and stays at beta for the other half.
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
    # One example is above the floor, the other below it. Their mean is above.
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


PIXELS = torch.ones(6, 1, 1, 2).double()


def vdm():
    return VDM(
        LinearSchedule(-13.3), lambda shape, **ends: Wavy(shape), Threshold(), x_shape=(1, 1, 2)
    ).double()


@pytest.mark.parametrize("samples", [1, 4])
def test_vlb_is_the_bound_of_the_model(samples):
    model, objective = vdm(), VLB(samples=samples)
    objective.check(model)
    torch.manual_seed(1)
    bound = objective(model, PIXELS)
    torch.manual_seed(1)
    terms = model.terms(PIXELS, samples=samples)
    torch.manual_seed(1)
    parts = objective.parts(model, PIXELS)
    assert torch.equal(bound, terms["elbo"]) and torch.equal(bound, parts[objective.bound])
    assert {"kl_prior", "kl_diffusion", "reconstruction"} < set(parts)


def test_other_objectives_log_their_bound_alone():
    assert list(IWAE(samples=3).parts(tiny_vae(), torch.ones(2, 1, 2, 2).double())) == ["iwae"]


@pytest.mark.parametrize("model", [tiny_vae(), nn.Linear(2, 2)], ids=["vae", "linear"])
def test_models_without_a_diffusion_are_refused(model):
    with pytest.raises(UserError, match=r"VLB needs a bound.*model=vdm") as caught:
        VLB().check(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", [ELBO(), AnalyticELBO(), STL(), IWAE(), DReG(), VIMCO()], ids=repr)
def test_objectives_of_drawn_latents_are_refused_for_a_diffusion(objective):
    with pytest.raises(UserError, match=r"VDM has none: .*objective=vlb for a diffusion"):
        objective.check(vdm())


def test_a_score_that_is_not_a_bound_is_refused_for_a_diffusion():
    with pytest.raises(UserError, match="Reconstruction is not a bound"):
        Reconstruction().check(vdm())
