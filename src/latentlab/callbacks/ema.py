"""The moving average of the weights, which is what is validated, saved, drawn and tested."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

# The decay rises as (1 + n) / (10 + n) after n steps, so that a short run is not the average of its start.
WARMUP = 10


class EMA(WeightAveraging):
    r"""Keeps a moving average of the weights, $\bar\theta \leftarrow d_n \bar\theta + (1 - d_n) \theta$.

    $d_n = \min(d, \frac{1 + n}{10 + n})$ after n steps. Lightning's averaging puts the averaged weights in for
    validation and into the checkpoints, from where they are tested and evaluated; the trained weights go on beside
    them, in checkpoints too. Buffers are copied.

    Args:
        decay: d.
    """

    def __init__(self, decay: Annotated[float, Field(ge=0, lt=1)] = 0.999) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay = decay
        self._swapped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average to the device that trains; Lightning makes it before the model is moved there."""
        assert self._average_model is not None
        # The count of steps stays on the CPU, where reading it waits for nothing.
        self._average_model.module.to(pl_module.device)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the averaged weights in."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trained weights back."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the trained weights back when a validation is cut short: a checkpoint is saved next."""
        if self._swapped:
            self.on_validation_epoch_end(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore both, where training resumes; elsewhere the averaged weights, loaded already, are what is wanted."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    @torch.no_grad()
    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], n: Tensor | int) -> None:
        # In tensors throughout: a number would have to be waited for on a GPU.
        rise = 1 - torch.clamp((1 + torch.as_tensor(n)) / (WARMUP + torch.as_tensor(n)), max=self.decay)
        steps = torch._foreach_sub(list(current), list(averaged))
        torch._foreach_mul_(steps, rise)
        torch._foreach_add_(list(averaged), steps)


@contextmanager
def averaged_weights(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """The averaged weights inside, in a training that keeps some; the trained ones outside."""
    kept: list[Any] = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
    for callback in kept:
        callback.on_validation_epoch_start(trainer, pl_module)
    try:
        yield
    finally:
        for callback in kept:
            callback.on_validation_epoch_end(trainer, pl_module)
