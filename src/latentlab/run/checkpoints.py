"""The reader of checkpoints, and the config of the run that a checkpoint belongs to."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentlab.errors import UserError
from latentlab.run import legacy
from latentlab.run.config import read_config
from latentlab.run.directory import RunDirectory
from latentlab.run.trust import Trusted

if TYPE_CHECKING:
    from torch import nn

# The parts that are built again from a saved config.
BUILT = ("module", "data", "callbacks")
# The sets of weights in a checkpoint. With an EMA, the first holds the averages and the second the trained weights.
WEIGHTS = ("state_dict", "current_model_state")


def read_checkpoint(path: str | Path, key: str = "ckpt_path") -> dict[str, Any]:
    """Return the state in a checkpoint: tensors on the CPU and plain values, under today's parameter names.

    Args:
        path: the file.
        key: the key under which the user gave it.

    Raises:
        UserError: if the file is missing, truncated or not a checkpoint.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{key}={path}: there is no such file (runs keep theirs as RUN/checkpoints/best.ckpt)"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "state_dict" not in state:
            raise ValueError("no state_dict")
    except Exception as error:  # torch raises almost any exception for a file that is not a checkpoint
        raise UserError(
            f"{key}={path}: not a whole checkpoint ({path.stat().st_size:,} bytes); "
            "it is truncated or of another kind: take the run's other checkpoint"
        ) from error
    return _translated(state, RunDirectory.of_checkpoint(path))


def load_state(module: "nn.Module", state: Mapping[str, Any], ckpt_path: str) -> None:
    """Load the weights of a checkpoint into a module.

    Raises:
        UserError: if they belong to another model.
    """
    try:
        module.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(
            f"ckpt_path={ckpt_path}: its weights do not fit the model of this config ({reason})"
        ) from error


def config_of(ckpt_path: str | Path, trusted: Trusted, parts: Iterable[str] = BUILT) -> dict[str, Any]:
    """Return the config of the run that a checkpoint belongs to, as plain data for `build_saved`.

    Args:
        ckpt_path: the checkpoint.
        trusted: the targets that the config may name.
        parts: the groups that will be built. The targets in other groups are not checked.

    Raises:
        UserError: if it is missing or damaged, or names classes that are not trusted.
    """
    path = RunDirectory.of_checkpoint(ckpt_path).config
    config = read_config(path, needs={**dict.fromkeys(parts, dict), "names": dict, "seed": int})
    for part in parts:
        trusted.check(config[part], part)
    return config


def _translated(state: dict[str, Any], run: RunDirectory) -> dict[str, Any]:
    if not run.config.exists():
        return state
    config = read_config(run.config)
    found = {name: legacy.todays_weights(state[name], config) for name in WEIGHTS if name in state}
    return {**state, **found}
