"""The duration and the speed of training."""

from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


def batch_examples(batch: Any) -> int:
    """Return the number of examples in a batch, whose first element is a tensor (B, ...)."""
    return len(batch[0])


class Timing(Callback):
    """Counts the seconds and the examples of training, over all devices and resumes.

    The clock runs from the start of an epoch, or from the end of a validation or a checkpoint, to the end of a training
    batch. Validation, figures and checkpoints do not count.

    Attributes:
        train_seconds: the seconds spent in training.
        examples: the number of training examples seen.
    """

    def __init__(self) -> None:
        self.train_seconds = 0.0
        self.examples = 0
        self._mark = 0.0
        self._restored: dict[str, Any] = {}

    @property
    def examples_per_second(self) -> float:
        """The training examples per second, 0 before the first batch."""
        return self.examples / self.train_seconds if self.train_seconds else 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning restores callbacks before a test too, where the counts must stay.
        self.train_seconds = self._restored.get("train_seconds", self.train_seconds)
        self.examples = self._restored.get("examples", self.examples)
        self._restored = {}

    def restart_clock(self) -> None:
        """Leave out the time since the last batch."""
        self._mark = perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.restart_clock()  # a resumed epoch does not start again

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.restart_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.restart_clock()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # queued steps belong to this epoch
        now = perf_counter()
        self.train_seconds += now - self._mark
        self.examples += batch_examples(batch) * trainer.world_size
        self._mark = now

    def state_dict(self) -> dict[str, Any]:
        return {"train_seconds": self.train_seconds, "examples": self.examples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = dict(state_dict)


def restart_clocks(trainer: Trainer) -> None:
    """Leave the time since the last batch out of the seconds of training."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timing):
            callback.restart_clock()
