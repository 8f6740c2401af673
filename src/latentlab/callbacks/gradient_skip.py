"""Training without the steps whose gradient is too large."""

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
    """Skips every step whose gradient norm is above a threshold or not finite (Child 2021).

    A skipped step leaves the parameters and the optimiser's state unchanged, and counts as a step for schedulers. The
    norm is that of the whole gradient, accumulated over batches and devices, before `trainer.gradient_clip_val` clips
    it. The number of skips is logged as `train/skipped_steps`, reported in the summary, and kept on a resume.

    A bound that is not finite still ends the training: on a CPU at once, on a GPU in the next step that logs.

    Args:
        max_norm: the largest gradient norm that is not skipped.
        patience: the number of skips among the last `window` steps that ends the training.
        window: the number of steps. If it equals `patience`, only consecutive skips end the training.

    Raises:
        UserError: if the patience is larger than the window, or a fused optimiser hides the gradient's norm.
        Diverged: if the patience is exhausted.
    """

    def __init__(
        self, max_norm: PositiveFloat = 1e5, patience: PositiveInt = 50, window: PositiveInt = 100
    ) -> None:
        if patience > window:
            raise UserError(
                f"callbacks.skip.patience={patience} is larger than callbacks.skip.window={window}: "
                f"set callbacks.skip.window={patience} or more"
            )
        self.max_norm = max_norm
        self.patience = patience
        self.skipped = 0
        self._recent: deque[bool] = deque(maxlen=window)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Such an optimiser unscales half-precision gradients in its step. Their norm is unknown before.
        if trainer.scaler is not None and any(map(_optimizer_handles_unscaling, trainer.optimizers)):
            raise UserError(
                "callbacks.skip needs the gradient's norm, which a fused optimiser hides under "
                "trainer.precision=16-mixed: set optimizer.fused=false or trainer.precision=bf16-mixed"
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([cast(torch.Tensor, p.grad) for p in parameters]).item()
        skip = not norm <= self.max_norm
        self._recent.append(skip)
        if skip:
            self.skipped += 1
            log.debug("step %d skipped: the gradient has norm %.3g", trainer.global_step, norm)
            for parameter in parameters:
                parameter.grad = None  # optimisers leave such parameters alone
            self._check_patience(trainer, norm)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = LitModule.of(pl_module).log_every_n_steps
        if every > 0 and trainer.global_step % every == 0:
            pl_module.log("train/skipped_steps", float(self.skipped))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Also of a finished run that is resumed, which trains no more.
        LitModule.of(pl_module).results["train/skipped_steps"] = self.skipped

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "recent": list(self._recent)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]
        self._recent.extend(state_dict["recent"])

    def _check_patience(self, trainer: Trainer, norm: float) -> None:
        if sum(self._recent) >= self.patience:
            raise Diverged(
                f"training diverged: {sum(self._recent)} of the last {len(self._recent)} steps were skipped by epoch "
                f"{trainer.current_epoch + 1}, step {trainer.global_step}; the last gradient has norm {norm:.3g} and "
                f"callbacks.skip.max_norm={self.max_norm:g}: lower optimizer.lr or raise callbacks.skip.max_norm "
                "(the checkpoints of earlier epochs are kept)"
            )
