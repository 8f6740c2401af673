"""Every option of conf/objective, as a user would choose it."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from latentlab import objectives
from latentlab.callbacks import GradientVariance
from latentlab.cli.checks import check_config
from latentlab.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = {
    "elbo": objectives.ELBO(1),
    "analytic_elbo": objectives.AnalyticELBO(1),
    "stl": objectives.STL(1),
    "iwae": objectives.IWAE(50),
    "dreg": objectives.DReG(50),
    "score_function": objectives.ScoreFunction(8),
    "vimco": objectives.VIMCO(8),
    "beta_elbo": objectives.BetaELBO(1),
}


def composed(group, option, *overrides):
    with initialize_config_dir(str(CONF / group), version_base="1.3"):
        config = compose(option, list(overrides))
    check_config(OmegaConf.to_container(config), OmegaConf.to_container(config), group)
    return instantiate(config)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_an_objective(option):
    assert composed("objective", option) == OPTIONS[option]


def test_the_bounds_are_named():
    assert {option for option, objective in OPTIONS.items() if objective.bound == "iwae"} == {
        "iwae",
        "dreg",
        "vimco",
    }


@pytest.mark.parametrize(
    ("option", "override", "words"),
    [
        ("vimco", "samples=1", "greater than or equal to 2"),
        ("score_function", "samples=1", "greater than or equal to 2"),
        ("iwae", "samples=0", "greater than 0"),
        ("beta_elbo", "beta=-1", "greater than or equal to 0"),
        ("beta_elbo", "cycle_epochs=0", "greater than 0"),
    ],
)
def test_values_out_of_range_are_refused(option, override, words):
    with pytest.raises(UserError, match=words):
        composed("objective", option, override)


def test_a_comparison_can_be_added():
    overrides = [
        "gradient_variance.repeats=7",
        "+gradient_variance.compare.iwae={_target_:latentlab.objectives.IWAE,samples:5}",
    ]
    callback = composed("callbacks", "gradient_variance", *overrides)["gradient_variance"]
    assert isinstance(callback, GradientVariance)
    others = [objectives.ELBO(1), objectives.AnalyticELBO(1), objectives.STL(1), objectives.IWAE(5)]
    assert list(callback.compare.values()) == others
    # Objects, and no configs that look like them.
    assert [type(objective) for objective in callback.compare.values()] == [type(other) for other in others]
