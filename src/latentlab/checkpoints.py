"""Checkpoints, read back."""

from pathlib import Path
from typing import Any

import torch

from latentlab.errors import UserError


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
