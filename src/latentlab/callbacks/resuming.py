"""Interrupted runs: the random states and the place to resume from."""

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import distributed

from latentlab.callbacks.ending import time_is_up
from latentlab.data.loader import seeded
from latentlab.tracking.csv_logger import CSVMetrics

State = dict[str, Any]
# The entry of a checkpoint with the place of the run that Lightning leaves out.
PLACE = "place"


class ResumeState(Callback):
    """Saves what Lightning leaves out of a checkpoint, so that a resumed run equals the uninterrupted one.

    It saves the random states of Python, NumPy and torch for each rank, and the place in the run. In a new run, each
    rank gets its own random draws.
    """

    def __init__(self) -> None:
        self._restored: list[State] = []
        self._resumed: State = {}
        self._stepped = self._validating = False

    def state_dict(self) -> State:
        """Return the random states of all ranks as plain numbers and tensors. All ranks must call it."""
        return {"ranks": _of_all_ranks(generator_states())}

    def load_state_dict(self, state_dict: State) -> None:
        # Restored when training starts, because Lightning may draw before.
        self._restored = state_dict["ranks"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if row := self._resumed.get("row"):
            for logger in trainer.loggers:
                logger.log_metrics(row["metrics"], row["step"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop |= self._resumed.get("should_stop", False)
        states, self._restored = self._restored, []
        if len(states) == trainer.world_size:
            set_generator_states(states[trainer.global_rank])
            return
        if states:
            rank_zero_warn(
                f"the run was trained on {len(states)} devices and resumes on {trainer.world_size}: "
                "its random draws start anew"
            )
        if trainer.global_rank > 0:  # all ranks have the same seed, but need different latents
            torch.manual_seed(seeded(torch.initial_seed(), trainer.global_rank).initial_seed())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning logs a row when this number is a multiple of log_every_n_steps, and the module logs its values when
        # global_step is. After a resume within an epoch, Lightning counts one step too many. Then a row holds the
        # values that were logged a multiple earlier, or there is none.
        if "steps" in self._resumed:
            trainer.fit_loop.epoch_loop._batches_that_stepped = self._resumed["steps"]
        self._resumed, self._stepped = {}, False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stepped = not trainer.fit_loop._should_accumulate()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stepped = False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        steps = trainer.fit_loop.epoch_loop._batches_that_stepped
        stopping = trainer.should_stop and not time_is_up(trainer)
        loops = checkpoint["loops"]["fit_loop"]
        checkpoint[PLACE] = {
            "steps": steps + self._stepped,  # Lightning counts a step after the validation that follows it
            "should_stop": stopping,
            "rows": _rows(trainer),
            "row": _row_to_come(trainer, steps - 1) if _ended(loops["epoch_progress"]) else None,
        }
        settle(loops, trainer.num_training_batches, self._validating, stopping)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._resumed = checkpoint.get(PLACE, {})


def settle(loops: State, num_batches: float, validating: bool, stopping: bool) -> None:
    """Change the saved state of Lightning's loops, so that a run resumes exactly between two batches.

    A batch that the loader has yielded and whose step has not finished counts as not seen. A validation that has not
    finished is repeated.

    Args:
        loops: the state of the fit loop.
        num_batches: the number of training batches in an epoch, which may be infinite.
        validating: True within a validation.
        stopping: True if the training is about to stop early.
    """
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    current, total = batches["current"], batches["total"]
    if current["completed"] < current["processed"]:
        return  # within the hooks at the end of a batch, where Lightning resumes exactly
    done = current["processed"]
    for part in (current, total):
        part.update(ready=part["processed"], started=part["processed"])
    if _ended(epochs) and (done == num_batches or stopping):
        epochs["total"]["completed"] = epochs["total"]["processed"]
        epochs["current"]["completed"] = epochs["current"]["processed"]
        current.update(dict.fromkeys(current, 0))
    elif _ended(epochs):  # trainer.max_steps or max_time ended the training within the epoch
        epochs["total"]["processed"] = epochs["total"]["completed"]
        epochs["current"]["processed"] = epochs["current"]["completed"]
    batches["is_last_batch"] = current["ready"] == num_batches
    if validating:
        started = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        loops["epoch_loop.val_loop.batch_progress"].update(total=started, current=dict(started))
    for place in loops["state_dict"].get("combined_loader", []):
        if "batch" in place:  # the next epoch of a loader with a fixed order has the same number
            place["batch"] = 0 if done == num_batches else min(place["batch"], done)


def _ended(epochs: State) -> bool:
    # Within the hooks at the end of an epoch.
    return bool(epochs["current"]["completed"] < epochs["current"]["processed"])


def _rows(trainer: Trainer) -> int:
    loggers = [logger for logger in trainer.loggers if isinstance(logger, CSVMetrics)]
    return sum(logger.file.count() for logger in loggers) if trainer.is_global_zero else 0


def _row_to_come(trainer: Trainer, step: int) -> State:
    # Lightning logs the values of an epoch after the checkpoint. A kill in between must not lose them.
    values = trainer._logger_connector.metrics["log"]
    metrics = {name: float(value) for name, value in values.items()}
    return {"metrics": {**metrics, "epoch": trainer.current_epoch}, "step": step} if metrics else {}


def generator_states() -> State:
    """Return the states of this process's generators, loadable with `weights_only=True`."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_generator_states(state: State) -> None:
    """Set this process's generators to states from `generator_states`."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _of_all_ranks(state: State) -> list[State]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states
