"""The reader of checkpoints, and the config of the run that a checkpoint belongs to."""

import logging
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from latentlab.errors import UserError
from latentlab.run import legacy
from latentlab.run.archive import outline
from latentlab.run.config import read_config
from latentlab.run.directory import RunDirectory
from latentlab.run.trust import Trusted

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

# The parts that are built again from a saved config.
BUILT = ("module", "data", "callbacks")
# The sets of weights in a checkpoint. With an EMA, the first holds the averages and the second the trained weights.
WEIGHTS = ("state_dict", "current_model_state")
# The kinds of a checkpoint's parts, and of their members. Every checkpoint has the NEEDED ones.
KINDS: dict[str, tuple[type, type]] = {
    **dict.fromkeys(("global_step", "epoch"), (int, object)),
    **dict.fromkeys(("state_dict", "current_model_state"), (dict, object)),
    **dict.fromkeys(("callbacks", "loops"), (dict, dict)),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), (list, dict)),
    "pytorch-lightning_version": (str, str),
}
NEEDED = ("state_dict", "global_step", "epoch")
# The errors of reading a file that may hold anything.
MISTAKES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


def read_checkpoint(path: str | Path, key: str = "ckpt_path") -> dict[str, Any]:
    """Return the state in a checkpoint: tensors on the CPU and plain values, under today's parameter names.

    The file may come from somebody else. Reading it executes nothing, and takes memory of the size of the file.

    Args:
        path: the file.
        key: the key under which the user gave it.

    Raises:
        UserError: if the file is missing, truncated or not a checkpoint, or if its weights are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{key}={path}: there is no such file (runs keep theirs as RUN/checkpoints/best.ckpt)"
        )
    try:
        state = _load(path)
    except MISTAKES as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{key}={path}: not a whole checkpoint ({path.stat().st_size:,} bytes): {reason}; {_remedy(path)}"
        ) from error
    return _translated(state, RunDirectory.of_checkpoint(path))


def read_first(paths: Iterable[Path], key: str) -> tuple[Path, dict[str, Any]]:
    """Return the first of some checkpoints that can be read, and its state. A warning names those before it.

    Args:
        paths: the checkpoints, such as best.ckpt and last.ckpt of a run.
        key: the key under which the user gave the run.

    Raises:
        UserError: if none can be read, for the first.
    """
    mistakes = []
    for path in paths:
        try:
            state = read_checkpoint(path, key)
        except UserError as error:
            mistakes.append(error)
            continue
        for mistake in mistakes:
            log.warning("%s: taking %s instead", mistake, path)
        return path, state
    raise mistakes[0]


def _load(path: Path) -> dict[str, Any]:
    import torch

    outline(path)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    _check_kinds(state)
    for name in WEIGHTS:
        for parameter, value in state.get(name, {}).items():
            _check_weight(f"{name}.{parameter}", value)
    return state


def _check_kinds(state: Any) -> None:
    if not isinstance(state, dict):
        raise ValueError("it holds no state_dict")
    for key, (kind, of) in KINDS.items():
        value = state.get(key, None if key in NEEDED else kind())
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"its {key} is {type(value).__name__}, not {kind.__name__}")
        members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not all(isinstance(each, of) for each in members):
            raise ValueError(f"its {key} holds something else than {of.__name__}")
    if state["global_step"] < 0 or state["epoch"] < 0:
        raise ValueError("its global_step or epoch is negative")
    if version := state.get("pytorch-lightning_version"):
        Version(version)  # Lightning parses it when a run resumes


def _check_weight(name: str, value: Any) -> None:
    import torch

    if not isinstance(value, dict if name.endswith("_extra_state") else torch.Tensor):
        raise ValueError(f"its {name} is {type(value).__name__}")
    if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.isfinite().all():
        raise ValueError(f"its {name} is not finite")


def _remedy(path: Path) -> str:
    run = RunDirectory.of_checkpoint(path)
    others = [each for each in (run.best_checkpoint, run.last_checkpoint) if each != path and each.exists()]
    return (
        f"take {others[0]}" if others else f"{path.parent} holds no other checkpoint, so train the run again"
    )


def load_state(module: "nn.Module", state: Mapping[str, Any], ckpt_path: str) -> None:
    """Load the weights of a checkpoint into a module.

    Raises:
        UserError: if they belong to another model.
    """
    try:
        module.load_state_dict(state["state_dict"])
    except MISTAKES as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(
            f"ckpt_path={ckpt_path}: its weights do not fit the model of this config ({reason})"
        ) from error


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run directory in the order in which they are tried, or `run` if it is a file.

    Raises:
        UserError: if there is no such place.
    """
    if not run.exists():
        raise UserError(f"run={run}: there is no such run directory (it holds config.yaml and checkpoints/)")
    if run == RunDirectory(run.parent).checkpoints:
        run = run.parent
    place = RunDirectory(run)
    return [place.best_checkpoint, place.last_checkpoint] if run.is_dir() else [run]


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
    try:
        found = {name: legacy.todays_weights(state[name], config) for name in WEIGHTS if name in state}
    except MISTAKES as error:
        raise UserError(f"{run.config} and the weights of its run do not fit ({error})") from error
    return {**state, **found}
