"""How long training took, and how many examples a second it saw."""

from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


def batch_examples(batch: Any) -> int:
    """The number of examples in a batch, whose first part is the tensor of images (B, ...)."""
    return len(batch[0])


class Timing(Callback):
    """Counts the seconds and the examples of training, over all devices and over resumes.

    Validation, figures and checkpoints do not count: the clock runs from the start of an epoch, or from the
    end of a validation, to the end of a training batch.

    Attributes:
        train_seconds: the seconds spent in training.
        examples: the training examples seen.
    """

    def __init__(self) -> None:
        self.train_seconds = 0.0
        self.examples = 0
        self._mark = 0.0
        self._restored: dict[str, Any] = {}

    @property
    def examples_per_second(self) -> float:
        """Training examples a second, 0 before the first batch."""
        return self.examples / self.train_seconds if self.train_seconds else 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on counting where a resumed run stopped, if there is nothing left to train too."""
        # Lightning restores callbacks before testing a checkpoint too, where the counts are to stay.
        self.train_seconds = self._restored.get("train_seconds", self.train_seconds)
        self.examples = self._restored.get("examples", self.examples)
        self._restored = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._mark = perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        self._mark = perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch and the time since the one before."""
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # steps that are queued still belong to the epoch
        now = perf_counter()
        self.train_seconds += now - self._mark
        self.examples += batch_examples(batch) * trainer.world_size
        self._mark = now

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"train_seconds": self.train_seconds, "examples": self.examples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the counts until training starts."""
        self._restored = dict(state_dict)
