"""Runs trained in this process, and the files that they leave."""

import json
from pathlib import Path

import torch
from commands import QUICK, call


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load(run / "checkpoints" / f"{name}.ckpt")["state_dict"]


def same_weights(one: Path, other: Path) -> bool:
    pairs = zip(weights(one).items(), weights(other).items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def train(run: Path, *arguments: str) -> Path:
    """Train a small run, with more arguments."""
    done = call("train.py", *QUICK, f"hydra.run.dir={run}", *arguments)
    assert done.status == 0, done.err
    return run
