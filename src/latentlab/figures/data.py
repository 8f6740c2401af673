"""The test set, as figures need it."""

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from latentlab.batch import Batch


def batches(trainer: Trainer) -> Iterator[tuple[Any, Tensor]]:
    """The test set's batches: what the model observes, on its device, and labels (B,), -1 for none."""
    for batch in _images(trainer):
        yield observed(trainer, batch), batch.y.cpu()


def spread(trainer: Trainer, n: int) -> Batch:
    """n images and labels from all over the test set, which may be sorted by class; all, if it is smaller."""
    xs, ys = zip(*_images(trainer), strict=True)
    x, y = torch.cat(xs), torch.cat(ys)
    chosen = torch.linspace(0, len(x) - 1, min(n, len(x))).long().to(x.device)
    return Batch(x[chosen], y[chosen])


def observed(trainer: Trainer, batch: Batch) -> Any:
    """What the model observes of a batch."""
    module: Any = trainer.lightning_module
    return module.model.observe(batch)


def _images(trainer: Trainer) -> Iterator[Batch]:
    device = trainer.lightning_module.device
    for batch in trainer.datamodule.whole_test_set():  # type: ignore[attr-defined]
        yield Batch(batch.x.to(device), batch.y.to(device))
