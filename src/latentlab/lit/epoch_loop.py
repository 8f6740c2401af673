"""Lightning's loop over the batches of an epoch, with a short step for the usual case."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins import Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from latentlab.batch import Batch
from latentlab.lit.gradient import GradientModule

# The hooks that a short step calls where a callback or the module overrides them.
CALLED = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step"),
)
# The hooks that a short step replaces. A module that overrides one of them takes Lightning's step.
REPLACED = (
    *("on_train_batch_start", "training_step", "backward", "optimizer_step", "optimizer_zero_grad"),
    "configure_gradient_clipping",
)
# The releases whose step the short step repeats, in calls that are private to Lightning.
RELEASES = "2.6."
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class ShortStepLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a short step where `takes_short_steps` is True.

    In each step Lightning prepares about 20 hooks for every callback, of which most are empty. The short step makes
    the same calls in the same order and keeps the same counts, without the empty hooks.
    """

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        self._short = takes_short_steps(self.trainer) and type(data_fetcher) is _PrefetchDataFetcher
        self._hooks = {name: overridden(self.trainer, name) for name in CALLED}

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if not self._short or self.restarting:
            super().advance(data_fetcher)
            return
        self.val_loop.restarting = False
        batch, _, _ = next(data_fetcher)
        index, progress, connector = self.batch_idx + 1, self.batch_progress, self.trainer._logger_connector
        progress.is_last_batch = data_fetcher.done
        batch = self._on_device(batch)
        progress.increment_ready()
        connector.on_batch_start(batch)
        self._call("on_train_batch_start", batch, index)
        progress.increment_started()
        loss = self._step(batch, index)
        progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self._call("on_train_batch_end", {"loss": loss}, batch, index)
        connector.on_batch_end()
        progress.increment_completed()
        connector.update_train_step_metrics()

    def _on_device(self, batch: Batch) -> Batch:
        strategy = self.trainer.strategy
        moved: Batch = batch if batch.device == strategy.root_device else strategy.batch_to_device(batch)
        return moved

    def _step(self, batch: Batch, index: int) -> Tensor:
        [optimizer] = self.trainer.optimizers
        progress = self.automatic_optimization.optim_progress.optimizer

        def closure() -> Tensor:
            with torch.enable_grad():  # the step of an optimiser has disabled it
                return self._loss(batch, index, optimizer)

        progress.step.increment_ready()
        loss: Tensor = optimizer.step(closure)  # type: ignore[assignment,arg-type]
        progress.step.increment_completed()
        return loss

    def _loss(self, batch: Batch, index: int, optimizer: Optimizer) -> Tensor:
        """Compute the loss and its gradients."""
        trainer, module = self.trainer, GradientModule.of(self.trainer.lightning_module)
        progress = self.automatic_optimization.optim_progress.optimizer.zero_grad
        module._current_fx_name = "training_step"
        loss = module.training_step(batch, index)
        progress.increment_ready()
        self._call("on_before_zero_grad", optimizer)
        progress.increment_started()
        optimizer.zero_grad()
        progress.increment_completed()
        self._call("on_before_backward", loss)
        loss.backward()
        self._call("on_after_backward")
        self._call("on_before_optimizer_step", optimizer)
        if trainer.gradient_clip_val:
            module.configure_gradient_clipping(
                optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            )
        return loss.detach()

    def _call(self, name: str, *args: Any) -> None:
        if hooks := self._hooks[name]:
            self.trainer.lightning_module._current_fx_name = name  # tells `self.log` when a value was logged
            for hook in hooks:
                hook(*args)


def takes_short_steps(trainer: pl.Trainer) -> bool:
    """Return True if a step is that of `GradientModule` on one device without mixed precision and accumulation."""
    module, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    return (
        pl.__version__.startswith(RELEASES)
        and isinstance(module, GradientModule)
        and _keeps(module, GradientModule, (*REPLACED, *TRANSFERS))
        and _keeps(data, pl.LightningDataModule, TRANSFERS)
        and type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) is Precision
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and trainer.accumulate_grad_batches == 1
    )


def overridden(trainer: pl.Trainer, name: str) -> list[Callable[..., Any]]:
    """Return the hooks of this name that callbacks and the module override, in Lightning's order."""
    module: Any = trainer.lightning_module
    callbacks: list[Callable[..., Any]] = [
        partial(getattr(callback, name), trainer, module)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if not _keeps(callback, pl.Callback, (name,))
    ]
    return callbacks if _keeps(module, pl.LightningModule, (name,)) else [*callbacks, getattr(module, name)]


def _keeps(found: Any, base: type, names: Iterable[str]) -> bool:
    # An instance may have a hook that its class lacks, as that of `LambdaCallback` does.
    return all(getattr(getattr(found, name), "__func__", None) is getattr(base, name) for name in names)
