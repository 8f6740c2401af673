"""Whether a run may go on from a checkpoint: what it shares with the run that made it."""

from collections.abc import Mapping
from typing import Any

from latentlab.errors import UserError
from latentlab.run.checkpoints import config_path
from latentlab.run.config import PLACES, leaves, read_yaml, shown

# What a resumed run shares with the run that it goes on from, for a checkpoint holds its state; and what may differ.
HELD = ("seed", "names", "data", "model", "objective", "optimizer", "scheduler")
FREE = (*PLACES, "data.eval_batch_size", "data.on_device", "model.tolerance")


def check_resumed(config: Mapping[str, Any], ckpt_path: str) -> None:
    """Refuse to resume a run with another model, other data or another optimiser than it had.

    The optimiser's and the scheduler's settings come back with their states: others would pass without effect.

    Raises:
        UserError: for the first setting that differs.
    """
    path = config_path(ckpt_path)
    asked, known = _held(config), _held(read_yaml(path))
    for key in [*asked, *(key for key in known if key not in asked)]:
        if asked.get(key) != known.get(key) and key not in FREE:
            inner = key.partition(".")[2]
            # As it is given: prior.x, not model.prior.x.
            name = inner if inner.partition(".")[0] in config else key
            raise UserError(
                f"{name}={shown(asked.get(key))}: the run of ckpt_path={ckpt_path} has {shown(known.get(key))}, "
                f"and goes on with that: give its own options again ({path} holds them)"
            )


def _held(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for part in HELD if part in config for key, value in leaves(config[part], part)}
