"""Every number that a config can set, at values that most of them cannot have."""

from collections.abc import Iterator
from functools import cache
from math import inf, nan
from typing import Any

import pytest
from omegaconf import OmegaConf
from parts import ROWS, composition, options

from latentlab.cli.checks import check_call, check_number, check_underflow
from latentlab.errors import UserError

CHOICES: list[tuple[str, ...]] = [
    *ROWS,
    *((f"model={name}",) for name in options("model")),
    *(("model=markovian_hvae", f"chain={name}") for name in options("chain")),
    *((f"data={name}",) for name in ("static_mnist", "binarised_mnist", "binarised_digits")),
]
VALUES = (nan, inf, -1, 0, True, "abc", [], None, 10**30)
# The values among these that have a meaning, by argument, or by class and argument. No value has one elsewhere.
MEANINGFUL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("mu0", "mean", "offset", "gamma_max", "correlation"), (-1, 0)),
    **dict.fromkeys(("beta", "free_bits", "warmup_epochs", "warmup_steps", "annealing_rate"), (0,)),
    **dict.fromkeys(("tolerance", "seed", "draw_seed", "val_size", "attention", "fourier"), (0,)),
    **dict.fromkeys(("eps", "weight_decay", "momentum", "eta_min", "total_iters"), (0,)),
    **dict.fromkeys(("min_delta", "patience", "num_sanity_val_steps"), (0,)),
    **dict.fromkeys(("hidden", "hidden_features", "eval_steps"), ([],)),
    "gamma_min": (-1, 0, None),
    "bounds": (None,),
    "VampPrior.spread": (0,),
    "GradientSkip.patience": (),
    "CAVIEarthquakes.beta": (),
    "EarthquakeCatalogue.beta": (),
    "RobbinsMonro.offset": (),
    "decay": (0,),
    "every_n_epochs": (None,),
    "GradientVariance.every_n_epochs": (),
    "every_minutes": (None,),
    "check_val_every_n_epoch": (None,),
    "log_every_n_steps": (0, None),
    "max_epochs": (-1, None),
    "devices": (-1, 0, "abc", []),  # `processes.devices` checks it
}


def calls(node: Any, where: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """The calls in a config with their keys."""
    if isinstance(node, dict):
        if node.get("_target_"):
            yield node, where
        for key, value in node.items():
            yield from calls(value, f"{where}.{key}".lstrip("."))


def is_number(value: Any) -> bool:
    values = value if isinstance(value, list) and value else [value]
    return all(type(each) in (int, float) for each in values)


@cache
def arguments() -> dict[tuple[str, str], tuple[tuple[str, ...], dict[str, Any], str]]:
    """The options, the call and the shortest key of every number, by its class and argument."""
    found: dict[tuple[str, str], tuple[tuple[str, ...], dict[str, Any], str]] = {}
    for chosen in CHOICES:
        for node, where in calls(OmegaConf.to_container(composition(*chosen)[0])):
            for name in (key for key, value in node.items() if key[0] != "_" and is_number(value)):
                key = (node["_target_"].rpartition(".")[2], name)
                if key not in found or len(where) < len(found[key][2]):
                    found[key] = (chosen, node, where)
    return found


def accepts(node: dict[str, Any], name: str, value: Any, where: str) -> bool:
    try:
        check_number(value, f"{where}.{name}")
        check_call({**node, name: value}, where)
    except UserError as error:
        assert str(error).startswith(f"{where}.{name}=") and "\n" not in str(error)
        return False
    return True


def test_every_number_of_every_config_has_a_range():
    wrong = {}
    for (kind, name), (_, node, where) in arguments().items():
        accepted = [value for value in VALUES if accepts(node, name, value, where)]
        meaningful = MEANINGFUL.get(f"{kind}.{name}", MEANINGFUL.get(name, ()))
        if accepted != list(meaningful):
            wrong[kind, name] = accepted
    assert wrong == {}
    assert len(arguments()) > 180


@pytest.mark.parametrize(
    "override", ["optimizer.lr=1e-400", "a=[1,1E-999]", "a={b:-2.5e-400}", "lr=interval(1e-400,1)"]
)
def test_a_number_that_would_be_zero_is_refused(override):
    with pytest.raises(UserError, match="too small and would be 0"):
        check_underflow(["seed=0", override])


def test_other_words_do_not_underflow():
    check_underflow(["a=1e-300", "a=0e-400", "hydra.run.dir=run/1e-400x", "name=x1e-400", "a=0.0e-999"])
