"""The Lightning side: steps, optimiser, exact sums. One base module, and a thin class for each family."""

from abc import ABC
from collections.abc import Callable, Iterable
from math import ceil
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentlab.data.loader import Batch, blocks
from latentlab.errors import Diverged, UserError
from latentlab.evaluation import Tally, reproducible
from latentlab.models.base import GenerativeModel
from latentlab.objectives import Clock, Objective

# Seeds of evaluation start here, away from the small ones that people give to training.
EVALUATION_SEED = 2**20


class BaseModule(pl.LightningModule, ABC):
    """Maximises an objective over the training set, and sums the model's terms exactly over the others.

    Logs `train/<bound>` every `trainer.log_every_n_steps` steps, and `val/*`, `test/*` as means over the whole set.

    Args:
        model: the generative model with its inference network.
        objective: the bound to maximise.
        optimizer: makes the optimiser of the given parameters.
        scheduler: makes the learning-rate scheduler of the given optimiser, stepped once an epoch.
        eval_samples: the draws of the latents per example in validation and test.

    Raises:
        UserError: when the objective is not defined for the model.
    """

    def __init__(
        self,
        model: GenerativeModel,
        objective: Objective,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler],
        eval_samples: PositiveInt = 1,
    ) -> None:
        super().__init__()
        objective.check(model)
        self.model = model
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.eval_samples = eval_samples
        self.tally = Tally()
        self.results: dict[str, float] = {}

    def observed(self, batch: Batch) -> Any:
        """What the model observes of a batch."""
        return batch.x

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """The optimiser over all parameters and its scheduler.

        Raises:
            UserError: for a value that the optimiser or the scheduler refuses.
        """
        try:
            optimizer = self.make_optimizer(self.parameters())
            return [optimizer], [self.make_scheduler(optimizer)]
        except ValueError as error:
            raise UserError(f"optimizer or scheduler: {error}") from error

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss: the one place where a bound is negated."""
        objective = self.objective.at(self.clock)
        bound = objective(self.model, self.observed(batch)).mean()
        self._report(bound.detach())
        return -bound

    @property
    def clock(self) -> Clock:
        """Where training stands."""
        batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        return Clock(self.global_step, ceil(batches))

    def _report(self, bound: Tensor) -> None:
        due = (self.global_step + 1) % self.trainer.log_every_n_steps == 0
        # Reading a number off a GPU waits for it, so that there the check waits for the steps that log.
        if (due or bound.device.type == "cpu") and not torch.isfinite(bound):
            raise Diverged(
                f"training diverged: the bound is {bound.item()} at epoch {self.current_epoch}, step {self.global_step}; "
                "lower optimizer.lr or set trainer.gradient_clip_val (checkpoints of the epochs before are kept)"
            )
        if due:
            self.log(f"train/{self.objective.bound}", bound)

    def on_validation_epoch_start(self) -> None:
        """Empty the sums."""
        self.tally = Tally()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the terms of a batch to the sums.

        Each block of examples has draws of its own: the sums do not depend on the batch size, nor training on them.
        """
        for block in blocks(batch):
            position = self.tally.count * self.trainer.world_size + self.global_rank
            with reproducible(EVALUATION_SEED + position, self.device):
                self.tally.add(self.model.terms(self.observed(block), samples=self.eval_samples))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation set."""
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Log the means over the test set."""
        self._log_means("test")

    def _log_means(self, split: str) -> None:
        expected = self.trainer.datamodule.num_examples[split]  # type: ignore[attr-defined]
        means = self.tally.means(expected, add_ranks=self._add_ranks)
        named = {f"{split}/{name}": value for name, value in means.items()}
        self.results.update(named)
        # The same on all ranks already.
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in named.items()})

    def _add_ranks(self, sums: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum").cpu()


class VAEModule(BaseModule):
    """A VAE: one layer of latents."""
