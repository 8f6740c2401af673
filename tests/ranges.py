"""Every number that a config can set, and the values that have no meaning for it."""

from collections.abc import Iterator
from functools import cache
from math import inf, nan
from typing import Any

from omegaconf import OmegaConf
from parts import ROWS, composition, options

# What a model needs besides.
BESIDES = dict.fromkeys(("expost", "expost_autoencoder"), ("model.pretrained=best.ckpt", "prior=mog"))
CHOICES: list[tuple[str, ...]] = [
    *ROWS,
    *((f"model={name}", *BESIDES.get(name, ())) for name in options("model")),
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
    **dict.fromkeys(("min_delta", "patience", "threshold", "cooldown", "min_lr", "warmup"), (0,)),
    **dict.fromkeys(("base_momentum", "max_momentum"), (0,)),
    "num_sanity_val_steps": (-1, 0),
    **dict.fromkeys(("hidden", "hidden_features", "eval_steps"), ([],)),
    **dict.fromkeys(("eta", "guidance", "label_dropout", "prior_draws"), (0,)),
    "guided_classes.guidance": (),
    "VDM.steps": (None,),
    "LatentDDPM.steps": (None,),
    **dict.fromkeys(("autoencoder_epochs", "delay", "SemiSupervised.alpha"), (0,)),
    **dict.fromkeys([f"{name}.beta" for name in ("ADVIEarthquakes", "CAVIMixture", "SVIMixture")], ()),
    **dict.fromkeys([f"{name}.eta" for name in ("Corpus", "CAVILDA", "SVILDA")], ()),
    "gamma_min": (-1, 0, None),
    "LinearBetaSchedule.gamma_min": (-1, 0),  # the schedule checks it against its first step
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
    "min_seconds": (0,),
    "check_val_every_n_epoch": (None,),
    "log_every_n_steps": (0, None),
    "max_epochs": (-1, None),
    "devices": (-1, 0, "abc", []),  # `processes.devices` checks it
    "MultiStep.milestones": ([],),
    "RMSprop.alpha": (0,),
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


def meaningful(kind: str, name: str) -> tuple[Any, ...]:
    """The VALUES that have a meaning for an argument of a class."""
    return MEANINGFUL.get(f"{kind}.{name}", MEANINGFUL.get(name, ()))


def spelled(value: Any) -> str:
    """A value as the command line spells it."""
    return {"True": "true", "None": "null"}.get(str(value), str(value))
