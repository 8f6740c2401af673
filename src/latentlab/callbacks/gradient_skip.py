"""Leaving out steps whose gradient is too large, without freezing the training."""

import logging
from collections import deque
from typing import Any, cast

import torch
from lightning_fabric.plugins.precision.amp import _optimizer_handles_unscaling
from pydantic import PositiveFloat, PositiveInt
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from latentlab.errors import Diverged, UserError
from latentlab.lit import LitModule

log = logging.getLogger(__name__)


class GradientSkip(Callback):
    """Skips every step whose gradient has a norm above a threshold, or not finite (Child 2021).

    Parameters and the optimiser's state stay as they are; the step counts for schedules. The norm is that of the whole
    gradient, accumulated over batches and devices, before `trainer.gradient_clip_val` clips it. Skips are counted in
    `train/skipped_steps`, logged with the bound and kept in the run's summary; a resumed run goes on counting. A bound
    that is itself not finite is no matter of one step and ends the training where it is seen: on a CPU at once, on a
    GPU in the steps that log, between which its gradient is skipped.

    Args:
        max_norm: the largest norm of a gradient that is followed.
        patience: the number of skips among the last `window` steps that ends the training.
        window: the number of steps; with `window` equal to `patience` only skips in a row end it.

    Raises:
        UserError: when the patience is larger than the window.
        Diverged: when the patience is at an end.
    """

    def __init__(
        self, max_norm: PositiveFloat = 1e5, patience: PositiveInt = 50, window: PositiveInt = 100
    ) -> None:
        if patience > window:
            raise UserError(
                f"callbacks.skip.patience={patience}: there cannot be so many skips among the last "
                f"{window} steps: raise callbacks.skip.window"
            )
        self.max_norm = max_norm
        self.patience = patience
        self.skipped = 0
        self._recent: deque[bool] = deque(maxlen=window)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse an optimiser that unscales half-precision gradients itself: their norms are not known before.

        Raises:
            UserError: with the way out.
        """
        if trainer.scaler is not None and any(map(_optimizer_handles_unscaling, trainer.optimizers)):
            raise UserError(
                "callbacks.skip reads the norm of the gradient, which a fused optimiser hides under "
                "trainer.precision=16-mixed: set optimizer.fused=false, or trainer.precision=bf16-mixed"
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the gradients away from the optimiser, if they are too large."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([cast(torch.Tensor, p.grad) for p in parameters]).item()
        skip = not norm <= self.max_norm
        self._recent.append(skip)
        if skip:
            self.skipped += 1
            log.debug("step %d skipped: the gradient has norm %.3g", trainer.global_step, norm)
            for parameter in parameters:
                parameter.grad = None  # which every optimiser of torch passes over
            self._check_patience(trainer, norm)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the count in the steps that log."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0: never
        if every > 0 and trainer.global_step % every == 0:
            pl_module.log("train/skipped_steps", float(self.skipped))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the count to the run's summary."""
        LitModule.of(pl_module).results["train/skipped_steps"] = self.skipped

    def state_dict(self) -> dict[str, Any]:
        """The counts, in plain numbers."""
        return {"skipped": self.skipped, "recent": list(self._recent)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = state_dict["skipped"]
        self._recent.extend(state_dict["recent"])

    def _check_patience(self, trainer: Trainer, norm: float) -> None:
        if sum(self._recent) >= self.patience:
            raise Diverged(
                f"training diverged: {sum(self._recent)} of the last {len(self._recent)} steps were skipped at epoch "
                f"{trainer.current_epoch + 1}, step {trainer.global_step}, the last for a gradient of norm {norm:.3g} "
                f"above callbacks.skip.max_norm={self.max_norm:g}; lower optimizer.lr or raise max_norm "
                "(the checkpoints of the epochs before are kept)"
            )
