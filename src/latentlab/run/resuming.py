"""The settings that a resumed run shares with the run that wrote its checkpoint."""

from collections.abc import Mapping
from typing import Any

from latentlab.errors import UserError
from latentlab.run.config import PLACES, leaves, read_config, shown
from latentlab.run.directory import RunDirectory

# A checkpoint holds the state of these parts, so they must be the same. FREE_TO_CHANGE lists the exceptions.
HELD = ("seed", "names", "data", "model", "objective", "optimizer", "scheduler")
FREE_TO_CHANGE = (*PLACES, "data.eval_batch_size", "data.on_device", "model.tolerance")


def check_resumed(config: Mapping[str, Any], ckpt_path: str) -> None:
    """Refuse to resume a run with another model, other data or another optimiser.

    The settings of the optimiser and the learning-rate scheduler come back with their states, so new ones would have
    no effect.

    Raises:
        UserError: for the first setting that differs.
    """
    path = RunDirectory.of_checkpoint(ckpt_path).config
    asked, known = _held(config), _held(read_config(path))
    for key in [*asked, *(key for key in known if key not in asked)]:
        if asked.get(key) != known.get(key) and key not in FREE_TO_CHANGE:
            inner = key.partition(".")[2]
            # The user's key: prior.x instead of model.prior.x.
            name = inner if inner.partition(".")[0] in config else key
            raise UserError(
                f"{name}={shown(asked.get(key))}: the run of ckpt_path={ckpt_path} has {shown(known.get(key))}, "
                f"and a run resumes with its own settings: {_remedy(name, key, asked, known)}"
            )


def _remedy(name: str, key: str, asked: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    if key not in known:
        return f"leave {name} out (~{name})"
    return f"use {'' if key in asked else '+'}{name}={shown(known[key])}"


def _held(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for part in HELD if part in config for key, value in leaves(config[part], part)}
