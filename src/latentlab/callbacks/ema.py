"""The moving average of the weights that is validated, saved, drawn and tested."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from latentlab.lit.base import LitModule

# After n steps the decay is at most (1 + n) / (10 + n), so that a short run forgets its initial weights.
WARMUP = 10


class EMA(WeightAveraging):
    r"""The exponential moving average of the weights, $\bar\theta \leftarrow d_n \bar\theta + (1 - d_n) \theta$.

    $d_n = \min(d, \frac{1 + n}{10 + n})$ after n steps. Lightning's base class swaps the average in for validation and
    saves it as the weights of a checkpoint, with the trained weights in another entry. Buffers are not averaged. The
    average starts again with the last phase of an objective, from the weights that the earlier one has trained.

    Args:
        decay: d.
    """

    def __init__(self, decay: Annotated[float, Field(ge=0, lt=1)] = 0.999) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay = decay
        self._swapped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning copies the model before it moves it to the training device.
        assert self._average_model is not None
        # The step count stays on the CPU, where reading it needs no synchronisation.
        self._average_model.module.to(pl_module.device)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        module, step = LitModule.of(pl_module), trainer.global_step
        if step > 0 and module.is_final(step) and not module.is_final(step - 1):
            assert self._average_model is not None
            self._average_model.n_averaged.zero_()  # the next update copies the weights

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # An interrupted validation leaves the average in place, and a checkpoint is saved next.
        if self._swapped:
            self.on_validation_epoch_end(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # A test needs only the averaged weights, which are loaded already.
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    @torch.no_grad()
    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], n: Tensor | int) -> None:
        # In tensors throughout, because reading a number from a GPU waits for it.
        rise = 1 - torch.clamp((1 + torch.as_tensor(n)) / (WARMUP + torch.as_tensor(n)), max=self.decay)
        steps = torch._foreach_sub(list(current), list(averaged))
        torch._foreach_mul_(steps, rise)
        torch._foreach_add_(list(averaged), steps)


@contextmanager
def averaged_weights(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Use the averaged weights in the context, if the run keeps an average."""
    kept: list[Any] = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
    for callback in kept:
        callback.on_validation_epoch_start(trainer, pl_module)
    try:
        yield
    finally:
        for callback in kept:
            callback.on_validation_epoch_end(trainer, pl_module)
