"""Steps, optimiser, exact sums: what every family shares."""

import logging
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentlab.batch import BLOCK, Batch, blocks
from latentlab.data.loader import FIRST, TrainingLoader, seeded
from latentlab.errors import Diverged, UserError
from latentlab.evaluation import Tally, reproducible
from latentlab.models.base import GenerativeModel
from latentlab.objectives import Clock, Objective
from latentlab.processes.devices import shares

log = logging.getLogger(__name__)

# Seeds of evaluation start here, away from the small ones that people give to training.
EVALUATION_SEED = 2**20
# Training examples that a model is adapted to before it is trained.
FIRST_EXAMPLES = 10_000


class ScoringModule(pl.LightningModule, ABC):
    """Sums a model's terms exactly over validation and test set: `val/*` and `test/*` are means over the whole set.

    Args:
        model: the generative model.
        eval_samples: the draws of the latents per example.
    """

    def __init__(self, model: GenerativeModel, eval_samples: PositiveInt = 1) -> None:
        super().__init__()
        self.model = model
        self.eval_samples = eval_samples
        self.tally = Tally()
        self.blocks = 0
        self.results: dict[str, float] = {}

    def check(self, data: Any) -> None:
        """Refuse data, not read yet, that the model does not score.

        Raises:
            UserError: with the reason and the options that work.
        """
        self.model.check(data.protocol)

    def observed(self, batch: Batch) -> Any:
        """What the model observes of a batch."""
        return self.model.observe(batch)

    def on_validation_epoch_start(self) -> None:
        """Empty the sums."""
        self.tally = Tally()
        self.blocks = 0

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the terms of a batch to the sums."""
        self._add(batch, self.model.terms)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add what the model reports of a batch to the sums."""
        self._add(batch, self.model.report)

    def _add(self, batch: Batch, score: Callable[..., dict[str, Tensor]]) -> None:
        # Each block of examples has draws of its own, whatever rank it is on: sums depend neither on the batch size nor
        # on the number of devices, nor training on them.
        for block in blocks(batch):
            position = (self.blocks * self.trainer.world_size + self.global_rank) * BLOCK
            self.blocks += 1
            with reproducible(EVALUATION_SEED + position, self.device):
                self.tally.add(score(self.observed(block), samples=self.eval_samples))

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation set."""
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Log the means over the test set."""
        self._log_means("test")

    def _log_means(self, split: str) -> None:
        expected = self.trainer.datamodule.num_examples[split]  # type: ignore[attr-defined]
        means = self.tally.means(expected, self.model.bound, self._add_ranks)
        named = {f"{split}/{name}": value for name, value in means.items()}
        self.results.update(named)
        # The same on all ranks already.
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in named.items()})

    def _add_ranks(self, sums: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum").cpu()


class BaseModule(ScoringModule, ABC):
    """Maximises an objective over the training set, and sums the model's terms exactly over the others.

    Logs `train/<bound>`, and what the objective names beside it, every `trainer.log_every_n_steps` steps; `val/*` and
    `test/*` as means over the whole set.

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
        super().__init__(model, eval_samples)
        objective.check(model)
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler

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

    def on_fit_start(self) -> None:
        """Say what a step is made of, and adapt a new model to the data; a resumed one has learned already.

        Raises:
            UserError: for an optimiser whose gradients cannot be clipped.
        """
        self._check_clipping()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        shared = shares(data.total_batch_size, self.trainer.world_size, self.trainer.accumulate_grad_batches)
        if shared and self.trainer.is_global_zero:
            log.info(shared)
        if self.trainer.ckpt_path is None:
            self.model.initialise(self.observed(self._first_examples()))

    def _check_clipping(self) -> None:
        [optimizer] = self.trainer.optimizers
        mixed = self.trainer.precision.endswith("-mixed")
        if mixed and self.trainer.gradient_clip_val and optimizer.defaults.get("fused"):
            raise UserError(
                f"trainer.gradient_clip_val={self.trainer.gradient_clip_val} with trainer.precision="
                f"{self.trainer.precision}: a fused optimiser cannot be clipped there: set optimizer.fused=false"
            )

    def _first_examples(self) -> Batch:
        # The same on every rank, and from a generator of its own, so that training's draws stay as they are.
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        draws = seeded(FIRST, data.seed)
        x, y = data.train
        chosen = torch.randperm(len(x), generator=draws)[:FIRST_EXAMPLES]
        return Batch(data.protocol(x[chosen], draws).to(self.device), y[chosen].to(self.device))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set what changes with the step."""
        self.model.anneal(self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss: the one place where a bound is negated."""
        objective = self.objective.at(self.clock)
        with self._valid_parameters():
            parts = objective.parts(self.model, self.observed(batch))
        # Lightning takes the mean of the ranks' gradients; their shares of a batch may differ by an example.
        weight = 1.0 if self.trainer.world_size == 1 else self._loader.weight(batch_idx)
        bound = weight * parts[objective.bound].mean()
        self._report({name: weight * part.detach().mean() for name, part in parts.items()})
        return -bound

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the terms of a batch to the sums."""
        with self._valid_parameters():
            super().validation_step(batch, batch_idx)

    @property
    def clock(self) -> Clock:
        """Where training stands."""
        batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        return Clock(self.global_step, ceil(batches))

    @property
    def _loader(self) -> TrainingLoader:
        loader: Any = self.trainer.train_dataloader
        return loader

    def _report(self, parts: Mapping[str, Tensor]) -> None:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0: never
        due = every > 0 and (self.global_step + 1) % every == 0
        alone = self.trainer.world_size == 1
        # Reading a number off a GPU waits for it, and ranks for one another: there, the check waits for the steps
        # that log.
        if not (due or every == 0 or (alone and parts[self.objective.bound].device.type == "cpu")):
            return
        means = parts if alone else self._mean_over_ranks(parts)
        if not torch.isfinite(bound := means[self.objective.bound]):
            raise self._diverged(f"the bound is {bound.item()}")
        if due:
            self.log_dict({f"train/{name}": mean for name, mean in means.items()})

    def _mean_over_ranks(self, parts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        means = self.trainer.strategy.reduce(torch.stack(list(parts.values())), reduce_op="mean")
        return dict(zip(parts, means, strict=True))

    def _diverged(self, what: str) -> Diverged:
        return Diverged(
            f"training diverged: {what} at epoch {self.current_epoch + 1}, "
            f"step {self.global_step}; lower optimizer.lr or set trainer.gradient_clip_val "
            "(the checkpoints of the epochs before are kept)"
        )

    @contextmanager
    def _valid_parameters(self) -> Iterator[None]:
        # With validate_args, torch refuses a distribution's parameters before there is a bound.
        try:
            yield
        except ValueError as error:
            refused, _, _ = str(error).partition(" (Tensor")
            if not refused.startswith("Expected parameter "):
                raise
            raise self._diverged(
                f"{refused.removeprefix('Expected ')} of a distribution is invalid"
            ) from error
