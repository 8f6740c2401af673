"""The progress of training: epoch, bounds, examples a second."""

import sys
from collections.abc import Container
from time import perf_counter
from typing import Any

from pydantic import PositiveFloat
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar

from latentlab.callbacks.displays import Bar, Display, Lines, Silence
from latentlab.callbacks.timing import batch_examples

# The bound, or the score of a model without one.
SCORES = ("elbo", "reconstruction")


class Progress(ProgressBar):
    """A bar on a terminal, redrawn every `refresh_seconds` at most; elsewhere a line an epoch in the log.

    Args:
        refresh_seconds: the least time between two redrawings of the bar.
    """

    def __init__(self, refresh_seconds: PositiveFloat = 0.2) -> None:
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self._display: Display = Silence()
        self._enabled = True
        self._examples = 0
        self._start = self._now = self._due = 0.0

    def enable(self) -> None:
        """Show progress in the next training."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing in the next training; Lightning calls it on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose where to show."""
        if self._enabled:
            self._display = Bar(_share(trainer, 0)) if sys.stderr.isatty() else Lines()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count examples anew."""
        self._examples = 0
        self._start = self._now = perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and show when it is time."""
        self._examples += batch_examples(batch)
        self._now = perf_counter()
        if self._now >= self._due:
            self._due = self._now + self.refresh_seconds
            self._display.refresh(_title(trainer), _share(trainer, batch_idx + 1), self._figures(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the finished epoch, its validation included."""
        self._display.end_epoch(
            _title(trainer), _share(trainer, trainer.num_training_batches), self._figures(trainer)
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the terminal in order."""
        self._display.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the terminal in order."""
        self._display.close()

    def _figures(self, trainer: Trainer) -> str:
        metrics = trainer.callback_metrics
        # The trained bound has the objective's name: train/elbo, train/iwae, ...
        trained = [name for name in metrics if name.startswith("train/")][:1]
        shown = [*trained, *headline(metrics, "val")]
        bounds = [f"{name.replace('/', ' ')} {metrics[name].item():.2f}" for name in shown]
        rate = self._examples * trainer.world_size / max(self._now - self._start, 1e-9)
        return "  ".join([*bounds, f"{rate:,.0f} examples/s"])


def headline(metrics: Container[str], split: str) -> list[str]:
    """Return the name of a split's score, such as val/elbo, or nothing if none was logged."""
    return [name for name in (f"{split}/{score}" for score in SCORES) if name in metrics][:1]


def _title(trainer: Trainer) -> str:
    limit = f"/{trainer.max_epochs}" if _has_limit(trainer) else ""
    return f"epoch {trainer.current_epoch + 1}{limit}"


def _has_limit(trainer: Trainer) -> bool:
    return trainer.max_epochs is not None and trainer.max_epochs > 0


def _share(trainer: Trainer, batches: int | float) -> float:
    """The part of the training that is done after so many batches of the current epoch."""
    if _has_limit(trainer):
        return min(
            1.0, (trainer.current_epoch + batches / trainer.num_training_batches) / (trainer.max_epochs or 1)
        )
    return min(1.0, trainer.global_step / trainer.max_steps) if trainer.max_steps > 0 else 0.0
