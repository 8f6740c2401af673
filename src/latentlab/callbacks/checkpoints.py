"""The checkpoints best.ckpt and last.ckpt, each replaced as a whole.

Lightning's `ModelCheckpoint` may write `last-v1.ckpt` or a link instead, and may save weights that are NaN.

Writing a checkpoint takes longer than a hundredth of a short epoch. So both callbacks hold copies of their states in
memory, and write them some seconds apart and however the training ends. Only a process that is killed without a signal
that it can catch loses the states of the last seconds, and its run resumes exactly from the ones before.
"""

from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pydantic import NonNegativeFloat, PositiveFloat
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from latentlab.callbacks.ending import EpochLoop, ends_epoch, is_extra
from latentlab.callbacks.signals import Stopped, largest, ranks_meet, signals_of
from latentlab.callbacks.timing import restart_clocks
from latentlab.errors import Diverged
from latentlab.lit import LitModule
from latentlab.run.checkpoints import read_checkpoint
from latentlab.run.directory import RunDirectory
from latentlab.run.files import replaced
from latentlab.tracking.record import log_best, log_checkpoint

State = dict[str, Any]


class Checkpoints(TorchCheckpointIO):
    """Lightning's checkpoint files, written as a whole, and read as everywhere else.

    Lightning would stage them in TMPDIR, which may be small. It would show a traceback for a damaged one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replaced(Path(path)) as draft, _DraftFile(draft, "wb") as file:
            torch.save(checkpoint, file)
            if file.error:
                raise file.error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_checkpoint(path)


class _DraftFile(FileIO):
    """A file for `torch.save`, which would hide the error of a full disk behind one of its own.

    A copy in memory would need the size of the file.

    Attributes:
        error: the first error of a write, after which nothing is written.
    """

    error: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left and self.error is None:  # a disk that is nearly full takes a part
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size


def is_finite(trainer: Trainer) -> bool:
    """Return True if the weights and the bounds logged last are finite on every rank."""
    bounds = [
        value for name, value in trainer.callback_metrics.items() if name.startswith(("train/", "val/"))
    ]
    # The extremes are NaN if a value is. They are read at once, because a GPU waits for every read.
    weights = [parameter.detach() for parameter in trainer.lightning_module.parameters() if parameter.numel()]
    extremes = [extreme for weight in weights for extreme in weight.aminmax()]
    finite = all(bool(torch.isfinite(value).all()) for value in [*bounds, *_stacked(extremes)])
    return bool(trainer.strategy.reduce_boolean_decision(finite, all=True))


def _stacked(values: list[Tensor]) -> list[Tensor]:
    return [torch.stack(values)] if values else []


def snapshot(trainer: Trainer) -> State:
    """Return a copy on the CPU of what a checkpoint holds now, {} on other ranks. All ranks must call it."""
    state: State = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    if not trainer.is_global_zero:
        return {}
    copied: State = apply_to_collection(state, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
    return copied


class HeldCheckpoint(Checkpoint):
    """A checkpoint whose state waits in memory to be written.

    Attributes:
        path: the path of the file, set when a trainer starts.
        held: the state, or None if it is written.
    """

    path: Path
    held: State | None = None

    def write(self, trainer: Trainer) -> None:
        """Write the state that is held, on the first rank. Other ranks need not call it.

        The state is held until it is written. The error of a failed write ends the run, which tries once more then.
        """
        if self.held is not None:
            trainer.strategy.save_checkpoint(self.held, self.path)
        self.held = None


class BestCheckpoint(HeldCheckpoint):
    """Keeps the weights with the largest validation score in checkpoints/best.ckpt.

    Every validation counts, also within an epoch and at the end of training. Without a validation set, and before the
    last phase of an objective, it keeps the latest epoch. Weights or scores that are not finite are never kept. Early
    stopping without a monitor watches the same metric.

    Args:
        monitor: the metric to maximise, or None for the objective that is trained (see `LitModule.monitor`).

    Attributes:
        best_epoch: the epoch of best.ckpt, from 0, or None before the first.
        best_step: the optimiser steps behind best.ckpt, or None if an older version wrote it.
        best_score: the metric of best.ckpt, or None without validation.
        best_is_final: True if best.ckpt is of the last phase of the objective.
        best_metrics: all validation metrics of best.ckpt.
        kept_the_end: True if the end of the current epoch is kept.
    """

    def __init__(self, monitor: str | None = None) -> None:
        self.monitor = monitor
        self._default = monitor is None
        self.best_epoch: int | None = None
        self.best_step: int | None = None
        self.best_score: float | None = None
        self.best_is_final = False
        self.best_metrics: dict[str, float] = {}
        self.kept_the_end = False
        self._validated = False
        self._followers: list[EarlyStopping] = []  # without a monitor of their own

    @property
    def best_model_path(self) -> str:
        """The path of best.ckpt, "" if there is none. Lightning reads this name for `ckpt_path="best"`."""
        return "" if self.best_epoch is None else str(self.path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.path = RunDirectory(Path(trainer.default_root_dir)).best_checkpoint
        EpochLoop.install(trainer)
        module = LitModule.of(pl_module)
        self._bound = f"val/{getattr(module.model, 'bound', 'elbo')}"
        self.monitor = self.monitor or module.monitor
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping):
                if callback.monitor is None:
                    self._followers.append(callback)
                callback.monitor = callback.monitor or self.monitor
                callback._should_skip_check = partial(_skips, callback)  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run resumed in another directory has no best.ckpt there.
        if not trainer.strategy.broadcast(self.path.exists()):
            self.best_epoch = self.best_score = None
            self.best_is_final = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.kept_the_end = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._validated = ends_epoch(trainer)  # a run resumes best from the end of an epoch
        if not self._validated:
            self._keep_if_better(trainer, trainer.callback_metrics.get(str(self.monitor)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        validates = trainer.enable_validation and sum(trainer.fit_loop.epoch_loop.val_loop.max_batches) > 0
        validated, self._validated = self._validated, False
        score = trainer.callback_metrics.get(str(self.monitor)) if validated else None
        self.kept_the_end = (validated or not validates) and self._keep_if_better(trainer, score)

    def _keep_if_better(self, trainer: Trainer, score: Tensor | None) -> bool:
        value = None if score is None else float(score)
        final = LitModule.of(trainer.lightning_module).in_final_phase
        better = self._is_better(value, final) and is_finite(trainer)
        if better:
            self.best_is_final = final
            self.best_epoch, self.best_step, self.best_score = (
                trainer.current_epoch,
                trainer.global_step,
                value,
            )
            metrics = trainer.callback_metrics.items() if score is not None else ()
            self.best_metrics = {name: float(each) for name, each in metrics if name.startswith("val/")}
            self.held = snapshot(trainer)
            self._report(trainer)
        return better

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer)
        trainer.strategy.barrier()  # the other ranks read the file next

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        with suppress(Exception):  # the first error ends the run
            self.write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer)  # the best epoch of a resumed run may lie before the resume
        if self.best_epoch is not None and trainer.is_global_zero:
            metadata = {"epoch": self.best_epoch, str(self.monitor): self.best_score}
            log_checkpoint(trainer.loggers, self.path, metadata)

    def state_dict(self) -> dict[str, Any]:
        names = ("monitor", "best_epoch", "best_step", "best_score", "best_metrics", "best_is_final")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_epoch, self.best_score = state_dict["best_epoch"], state_dict["best_score"]
        self.best_step, self.best_metrics = state_dict.get("best_step"), state_dict.get("best_metrics", {})
        self.best_is_final = state_dict.get("best_is_final", True)  # the only phase of older versions
        self._keep_monitor(state_dict)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if state := checkpoint["callbacks"].get(self.state_key):
            self._keep_monitor(state)
            for callback in self._followers:  # before Lightning looks for their patience by this name
                callback.monitor = str(self.monitor)

    def _keep_monitor(self, state: dict[str, Any]) -> None:
        # Scores of two metrics do not compare. Older versions chose by the model's own bound.
        if self._default:
            self.monitor = state.get("monitor", self._bound)

    def _report(self, trainer: Trainer) -> None:
        # The model's own bound of the same weights compares over objectives.
        scores = {self._bound: self.best_metrics.get(self._bound), str(self.monitor): self.best_score}
        for name, score in scores.items():
            if score is not None:
                log_best(trainer.loggers, name, score)

    def _is_better(self, value: float | None, final: bool) -> bool:
        if not (final and self.best_is_final):
            return final >= self.best_is_final
        return value is None or self.best_score is None or value > self.best_score


def _skips(callback: EarlyStopping, trainer: Trainer) -> bool:
    # Its patience counts the validations that a longer training has too.
    early = not LitModule.of(trainer.lightning_module).in_final_phase
    return early or is_extra(trainer) or type(callback)._should_skip_check(callback, trainer)


class LastCheckpoint(HeldCheckpoint):
    """Keeps the latest state in checkpoints/last.ckpt, from which a run resumes.

    It holds the state after each epoch, and writes it after the first epoch, then some seconds apart, and when the
    training ends. It also saves within an epoch after some minutes, and when a signal ends the run. A run resumed there
    gives the same numbers as an uninterrupted one. If another error ends the first epoch, the unfinished weights are
    saved. Weights or bounds that are not finite are never saved. best.ckpt is always written first, so that it is never
    older than last.ckpt says. If that write fails, last.ckpt stays as it is.

    Args:
        every_minutes: the time between two checkpoints within an epoch, or None to save after epochs only.
        min_seconds: the shortest time between two checkpoints after epochs. A kill that no program can catch loses as
            much training.
    """

    def __init__(self, every_minutes: PositiveFloat | None = 5, min_seconds: NonNegativeFloat = 10) -> None:
        self.every_minutes = every_minutes
        self.min_seconds = min_seconds
        self._saved = 0.0
        self._trains = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.path = RunDirectory(Path(trainer.default_root_dir)).last_checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved, self._trains = monotonic(), True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # In between, gradients are accumulated that no checkpoint holds.
        whole, rest = divmod(batch_idx, trainer.accumulate_grad_batches)
        if rest == 0 and ranks_meet(trainer, whole):
            due = self.every_minutes is not None and self._age() >= 60 * self.every_minutes
            if self._stop_or_reduce(trainer, due):
                self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = self._stop_or_reduce(trainer, self._age() >= self.min_seconds or not self.path.exists())
        self._hold(trainer)
        if due:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trains = False
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # After another error, a new snapshot could wait forever for a rank that failed.
        alone = trainer.world_size == 1 and trainer.global_step > 0
        first = alone and self.held is None and not self.path.exists()
        crashed = first and not isinstance(exception, Diverged | SystemExit | OSError)
        if self._trains and (crashed or isinstance(exception, Stopped)):
            self._save(trainer)
        with suppress(Exception):  # the first error ends the run
            self._write(trainer)

    def _age(self) -> float:
        return monotonic() - self._saved

    def _stop_or_reduce(self, trainer: Trainer, due: bool) -> bool:
        number, due_somewhere = largest(trainer, signals_of(trainer).received, int(due))
        if number:
            raise Stopped(128 + number)  # `on_exception` saves
        return bool(due_somewhere)

    def _hold(self, trainer: Trainer) -> None:
        # The snapshot of a callback directly before this one is that of now. Others in between may have changed theirs.
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        before = callbacks[callbacks.index(self) - 1]
        if isinstance(before, BestCheckpoint) and before.kept_the_end:
            self.held = before.held
        elif is_finite(trainer):
            self.held = snapshot(trainer)

    def _save(self, trainer: Trainer) -> None:
        if is_finite(trainer):
            self.held = snapshot(trainer)
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        for each in [*_best(trainer), self]:
            each.write(trainer)
        self._saved = monotonic()
        restart_clocks(trainer)


def _best(trainer: Trainer) -> list[BestCheckpoint]:
    return [callback for callback in trainer.callbacks if isinstance(callback, BestCheckpoint)]  # type: ignore[attr-defined]
