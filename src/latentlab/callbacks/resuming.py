"""Interrupted runs: the random states to resume from, and SIGTERM on several devices."""

import random
import signal
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import distributed

from latentlab.data.loader import seeded

State = dict[str, Any]


class ResumeState(Callback):
    """Saves the random states of Python, NumPy and torch for each rank, and restores them on a resume.

    In a new run, each rank gets its own random draws.
    """

    def __init__(self) -> None:
        self._restored: list[State] = []

    def state_dict(self) -> State:
        """Return the random states of all ranks as plain numbers and tensors. All ranks must call it."""
        return {"ranks": _of_all_ranks(generator_states())}

    def load_state_dict(self, state_dict: State) -> None:
        # Restored when training starts, because Lightning may draw before.
        self._restored = state_dict["ranks"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
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

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # The loader has yielded a batch whose step was interrupted. It counts as not seen.
        loop = checkpoint["loops"]["fit_loop"]
        processed = loop["epoch_loop.batch_progress"]["current"]["processed"]
        for place in loop["state_dict"].get("combined_loader", []):
            place.update(batch=min(place["batch"], processed))


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


class OwnSignals(Callback):
    """Keeps the process's own SIGTERM handler on several devices.

    Lightning's handler sends a message to all ranks. It hangs if another rank is waiting for something else.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, self.handler)

    on_test_start = on_train_start
