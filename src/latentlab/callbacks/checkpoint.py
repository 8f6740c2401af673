"""checkpoints/best.ckpt and checkpoints/last.ckpt, always under these names, each replaced as a whole.

Lightning's `ModelCheckpoint` may write `last-v1.ckpt` or a link instead, and may take weights that are NaN.
"""

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from latentlab.errors import Diverged
from latentlab.tracking.record import log_best, log_checkpoint


def save(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint beside `path` and move it there, so that a crash leaves the old; on all ranks."""
    draft = path.with_name(f"{path.name}.part")
    trainer.save_checkpoint(draft)
    if trainer.is_global_zero:
        os.replace(draft, path)


def is_finite(trainer: Trainer) -> bool:
    """Whether the weights and the bounds logged last are finite, on every rank."""
    bounds = [
        value for name, value in trainer.callback_metrics.items() if name.startswith(("train/", "val/"))
    ]
    tensors = [*trainer.lightning_module.parameters(), *bounds]
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    return bool(trainer.strategy.reduce_boolean_decision(finite, all=True))


class BestCheckpoint(Checkpoint):
    """Keeps the epoch with the largest validation bound in checkpoints/best.ckpt, or the latest of all.

    Without a validation set the latest epoch counts as the best.

    Args:
        monitor: the metric to maximise.

    Attributes:
        best_epoch: the epoch of best.ckpt, from 0; None before the first.
        best_score: its metric; None without validation.
        path: where best.ckpt is, once a trainer is known.
    """

    def __init__(self, monitor: str = "val/elbo") -> None:
        self.monitor = monitor
        self.best_epoch: int | None = None
        self.best_score: float | None = None
        self.path = Path("best.ckpt")
        self._validated = False

    @property
    def best_model_path(self) -> str:
        """Where best.ckpt is, "" before the first: the name that Lightning's `ckpt_path="best"` asks for."""
        return "" if self.best_epoch is None else str(self.path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run directory."""
        self.path = Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the best epoch of a run that is resumed in another directory, where its checkpoint is not."""
        if not trainer.strategy.broadcast(self.path.exists()):
            self.best_epoch = self.best_score = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the metric is fresh."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the epoch is the best so far; a metric or weights that are not finite never are."""
        validates = trainer.enable_validation and sum(trainer.fit_loop.epoch_loop.val_loop.max_batches) > 0
        fresh, self._validated = self._validated, False
        score = trainer.callback_metrics.get(self.monitor) if fresh else None
        if validates and score is None:
            return
        value = None if score is None else float(score)
        if self._is_better(value) and is_finite(trainer):
            self.best_epoch, self.best_score = trainer.current_epoch, value
            save(trainer, self.path)
            self._report(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the best checkpoint to the loggers that were asked to keep it."""
        self._report(trainer)  # a resumed run may have been best before
        if self.best_epoch is not None and trainer.is_global_zero:
            metadata = {"epoch": self.best_epoch, self.monitor: self.best_score}
            log_checkpoint(trainer.loggers, self.path, metadata)

    def state_dict(self) -> dict[str, Any]:
        """The best epoch and its metric."""
        return {"best_epoch": self.best_epoch, "best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch and its metric."""
        self.best_epoch, self.best_score = state_dict["best_epoch"], state_dict["best_score"]

    def _report(self, trainer: Trainer) -> None:
        if self.best_score is not None:
            log_best(trainer.loggers, self.monitor, self.best_score)

    def _is_better(self, value: float | None) -> bool:
        return value is None or self.best_score is None or value > self.best_score


class LastCheckpoint(Checkpoint):
    """Keeps the latest epoch in checkpoints/last.ckpt, from where a run resumes.

    A run resumed from an epoch's end gives the same numbers as one that was never cut off. An exception or a
    signal adds a checkpoint in the middle of an epoch only when there is none yet.
    Weights or bounds that are not finite are never saved.

    Attributes:
        path: where last.ckpt is, once a trainer is known.
    """

    def __init__(self) -> None:
        self.path = Path("last.ckpt")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run directory."""
        self.path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save every epoch."""
        if is_finite(trainer):
            save(trainer, self.path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the first epoch's unfinished weights, when training did not diverge."""
        # Saving would wait for other ranks, perhaps in vain; a test runs on the best weights, not the last.
        alone = trainer.world_size == 1 and trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0
        if alone and not self.path.exists() and not isinstance(exception, Diverged) and is_finite(trainer):
            save(trainer, self.path)
