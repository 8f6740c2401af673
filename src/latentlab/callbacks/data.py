"""The test set, as figures need it."""

from collections.abc import Iterator

import torch
from pytorch_lightning import Trainer
from torch import Tensor


def batches(trainer: Trainer) -> Iterator[tuple[Tensor, Tensor]]:
    """The test set's batches: images (B, 1, 28, 28) on the model's device, and labels (B,), -1 for none."""
    device = trainer.lightning_module.device
    for batch in trainer.datamodule.test_dataloader():  # type: ignore[attr-defined]
        yield batch.x.to(device), batch.y.cpu()


def spread(trainer: Trainer, n: int) -> tuple[Tensor, Tensor]:
    """n images and labels from all over the test set, which may be sorted by class; all, if it is smaller."""
    xs, ys = zip(*batches(trainer), strict=True)
    x, y = torch.cat(xs), torch.cat(ys)
    chosen = torch.linspace(0, len(x) - 1, min(n, len(x))).long()
    return x[chosen.to(x.device)], y[chosen]
