"""Batches of labelled images."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Evaluation seeds the draws of latents for this many examples, so that they do not depend on the batch size.
BLOCK = 50


class Batch(NamedTuple):
    """Images x, float32 (B, 1, 28, 28), and labels y, int64 (B,). A missing label is -1."""

    x: Tensor
    y: Tensor

    @property
    def device(self) -> torch.device:
        return self.x.device

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.x.to(device), self.y.to(device))


class Sets(NamedTuple):
    """The training set and the test set, each in batches."""

    training: Iterable[Batch]
    test: Iterable[Batch]


def blocks(batch: Batch, size: int = BLOCK) -> Iterator[Batch]:
    """Split a batch into blocks of at most `size` examples, none for an empty batch."""
    parts = zip(batch.x.split(size), batch.y.split(size), strict=True)
    return (Batch(x, y) for x, y in parts if len(y))
