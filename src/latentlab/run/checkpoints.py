"""Checkpoints, read back, and the config of the run that they belong to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentlab.cli.checks import check_trusted
from latentlab.errors import UserError
from latentlab.run.config import CONFIG, read_yaml

# What is rebuilt from a run's config, and what names it.
PARTS = ("module", "data", "callbacks", "names", "seed")


def read_checkpoint(path: str | Path, key: str = "ckpt_path") -> dict[str, Any]:
    """The state in the checkpoint that was given under `key`, tensors and plain values only, on the CPU.

    Raises:
        UserError: when the file is missing, cut short, or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{key}={path}: there is no such file (runs keep theirs as RUN/checkpoints/best.ckpt)"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "state_dict" not in state:
            raise ValueError("no state_dict")
        return state
    except Exception as error:  # bytes that are no checkpoint can make torch raise anything
        raise UserError(
            f"{key}={path}: not a whole checkpoint ({path.stat().st_size:,} bytes); "
            "it was cut short or is of another kind: take the run's other checkpoint"
        ) from error


def load_state(module: nn.Module, state: Mapping[str, Any], ckpt_path: str) -> None:
    """Put the weights of a checkpoint into a module.

    Raises:
        UserError: when they are another model's.
    """
    try:
        module.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(
            f"ckpt_path={ckpt_path}: its weights do not fit the model of this config ({reason})"
        ) from error


def read_config(ckpt_path: str) -> dict[str, Any]:
    """The resolved config of the run that a checkpoint belongs to.

    Raises:
        UserError: when there is none, it is damaged, or it names classes from elsewhere.
    """
    path = config_path(ckpt_path)
    config = read_yaml(path)
    missing = [part for part in PARTS if part not in config]
    if missing:
        raise UserError(f"{path} is not a whole config of a run: it lacks {', '.join(missing)}")
    for part in PARTS[:3]:
        check_trusted(config[part], part)
    return config


def config_path(ckpt_path: str) -> Path:
    """The config of the run that a checkpoint belongs to.

    Raises:
        UserError: when there is none.
    """
    path = Path(ckpt_path).parent.parent / CONFIG
    if not path.exists():
        raise UserError(f"{path} is missing: a checkpoint is read together with the config.yaml of its run")
    return path
