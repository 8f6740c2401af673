"""The search space and the settings of a search."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from latentlab.errors import UserError
from latentlab.sweeps.search.command import read_settings
from latentlab.sweeps.search.search import SearchSettings, check_metric
from latentlab.sweeps.search.space import read_space


@pytest.mark.parametrize(
    ("sweep", "distribution"),
    [
        ("interval(0, 1)", FloatDistribution(0.0, 1.0)),
        ("tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(1, 5))", IntDistribution(1, 4)),
        ("range(2, 65)", IntDistribution(2, 64)),
        ("range(2, 65, 8)", IntDistribution(2, 58, step=8)),
        ("tag(log, range(2, 65))", IntDistribution(2, 64, log=True)),
        ("range(0.1, 0.5, 0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("choice(a, b)", CategoricalDistribution(["a", "b"])),
        ("[16],[16,32]", CategoricalDistribution(["[16]", "[16,32]"])),
        (["a", "b"], CategoricalDistribution(["a", "b"])),
        ([0.5, True], CategoricalDistribution(["0.5", "True"])),
    ],
)
def test_a_sweep_of_hydras_becomes_a_distribution(sweep, distribution):
    assert read_space({"x": sweep}, []).distributions == {"x": distribution}


def test_the_command_line_overrides_the_config():
    params = {"a": {"b": "range(1, 3)", "c": "range(1, 3)"}, "d.e": "x,y", "f": None}
    space = read_space(params, ["a.b=interval(0,1)", "d.e=x", "~callbacks.best", "+g=1"])
    assert space.distributions == {"a.b": FloatDistribution(0.0, 1.0), "a.c": IntDistribution(1, 2)}
    assert space.overrides({"a.b": 1e-5, "a.c": 2}) == [
        *("d.e=x", "~callbacks.best", "+g=1"),
        *("a.c=2", "a.b=1e-05"),
    ]


def test_the_size_and_corners_of_a_space():
    space = read_space({"a": "range(0, 10, 3)", "b": "x,y,z", "c": "range(0.1, 0.5, 0.1)"}, [])
    assert space.size == 4 * 3 * 4
    corners = list(space.corners())
    assert [corner["b"] for corner in corners] == ["x", "y", "z"] and {c["a"] for c in corners} == {0, 9}
    assert read_space({"a": "interval(0, 1)"}, []).size is None


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "conf/sweep/"),
        ({"a": "1"}, "conf/sweep/"),
        ({"seed": "1,2"}, "seed=1,2"),
        ({"a": "range(3, 3)"}, "empty"),
        ({"a": "tag(big, range(1, 3))"}, "big"),
        ({"a": "tag(log, interval(0, 1))"}, "a=tag"),
        ({"a": "interval(2, 1)"}, "a=interval"),
    ],
)
def test_a_wrong_space_is_refused(params, words):
    with pytest.raises(UserError, match=r"\A.*\Z") as refused:
        read_space(params, [])
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"direction": "up"}, "hydra.sweeper.direction=up"),
        ({"trials": 3}, "hydra.sweeper.trials: "),
        ({"sampler": {"_target_": "optuna.samplers.TPESampler", "seeds": 1}}, "hydra.sweeper.sampler.seeds"),
        ({"pruner": {"_target_": "optuna.pruners.Median"}}, "optuna.pruners.Median"),
    ],
)
def test_wrong_settings_are_refused(given, words):
    parts = {key: {} for key in ("sampler", "pruner", "storage")}
    with pytest.raises(UserError, match=words):
        read_settings(parts | given)


def test_a_grid_has_one_trial_for_each_point():
    settings = SearchSettings(n_trials=None)
    assert settings.count(read_space({"a": "1,2", "b": "range(0, 3)"}, [])) == 6
    with pytest.raises(UserError, match=r"hydra\.sweeper\.n_trials=null"):
        settings.count(read_space({"a": "interval(0, 1)"}, []))


def test_a_score_on_the_test_set_is_refused():
    with pytest.raises(UserError, match="choose by val/elbo"):
        check_metric("test/elbo", {})
