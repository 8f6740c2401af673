"""The states of the random number generators, so that a resumed run is the run that was never cut off."""

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import distributed

from latentlab.data.loader import seeded

State = dict[str, Any]


class ResumeState(Callback):
    """Keeps the random states of Python, NumPy and torch of each rank, and restores them on a resume."""

    def __init__(self) -> None:
        self._restored: list[State] = []

    def state_dict(self) -> State:
        """The generators' states, one for each rank, of plain numbers and tensors; called on every rank."""
        return {"ranks": _of_all_ranks(generator_states())}

    def load_state_dict(self, state_dict: State) -> None:
        """Keep the states until training starts: what comes before may draw."""
        self._restored = state_dict["ranks"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this rank's generators when training resumes; otherwise give each rank draws of its own."""
        states, self._restored = self._restored, []
        if len(states) == trainer.world_size:
            set_generator_states(states[trainer.global_rank])
            return
        if states:
            rank_zero_warn(
                f"resuming on {trainer.world_size} devices a run of {len(states)}: its draws cannot go on"
            )
        if trainer.global_rank > 0:  # seeded as the first is, for the same weights; the latents are to differ
            torch.manual_seed(seeded(torch.initial_seed(), trainer.global_rank).initial_seed())

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count the batch whose step was cut short as not seen: the loader has given it out already."""
        loop = checkpoint["loops"]["fit_loop"]
        processed = loop["epoch_loop.batch_progress"]["current"]["processed"]
        for place in loop["state_dict"].get("combined_loader", []):
            place.update(batch=min(place["batch"], processed))


def generator_states() -> State:
    """The states of this process's generators, loadable with `weights_only=True`."""
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
