"""What each objective asks of a model, and what is said where it is missing."""

import pytest
import torch
from binary_chain import BinaryChain
from linear_gaussian import LinearGaussian
from oracles import tiny_vae
from torch import nn

from latentlab.errors import UserError
from latentlab.objectives import ELBO, IWAE, STL, VIMCO, AnalyticELBO, BetaELBO, DReG, ScoreFunction
from latentlab.posteriors import GumbelSoftmaxPosterior
from latentlab.priors import CategoricalPrior

PATHWISE = [ELBO(), AnalyticELBO(), STL(), IWAE(), DReG(), BetaELBO()]
SCORE = [ScoreFunction(), VIMCO()]
RELAXABLE = [ELBO(), AnalyticELBO(), BetaELBO(), *SCORE]
TWICE = [STL(), DReG(), *SCORE]


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
        UserError, match="no path: choose objective=score_function or objective=vimco"
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
