"""The Lightning side: steps, optimiser, exact sums. One base module, and a thin class for each family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentlab.classical.base import Inference
from latentlab.classical.sources import Source
from latentlab.data.loader import FIRST, Batch, blocks, seeded
from latentlab.errors import Diverged, UserError
from latentlab.evaluation import Tally, reproducible
from latentlab.models.base import GenerativeModel
from latentlab.models.conditional import ConditionalVAE
from latentlab.objectives import Clock, Objective

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
        self.results: dict[str, float] = {}

    def check(self, data: Any) -> None:
        """Refuse data, not read yet, that the model does not score.

        Raises:
            UserError: with the reason and the options that work.
        """
        self.model.check(data.protocol)

    def observed(self, batch: Batch) -> Any:
        """What the model observes of a batch."""
        return batch.x

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


class BaseModule(ScoringModule, ABC):
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
        """Adapt a new model to the data; a resumed one has learned already."""
        if self.trainer.ckpt_path is None:
            self.model.initialise(self.observed(self._first_examples()))

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
            bound = objective(self.model, self.observed(batch)).mean()
        self._report(bound.detach())
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

    def _report(self, bound: Tensor) -> None:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0: never
        due = every > 0 and (self.global_step + 1) % every == 0
        # Reading a number off a GPU waits for it, so that there the check waits for the steps that log.
        if (due or every == 0 or bound.device.type == "cpu") and not torch.isfinite(bound):
            raise self._diverged(f"the bound is {bound.item()}")
        if due:
            self.log(f"train/{self.objective.bound}", bound)

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


class VAEModule(BaseModule):
    """A VAE: one layer of latents."""


class AutoencoderModule(BaseModule):
    """An autoencoder, followed by the score of its reconstruction: there is no bound."""


class ConditionalModule(BaseModule):
    """A model of images and their labels."""

    model: ConditionalVAE

    def check(self, data: Any) -> None:
        """Refuse data that the model does not score, or without labels.

        Raises:
            UserError: with the reason and the options that work.
        """
        super().check(data)
        if not data.labelled:
            raise UserError(
                f"{type(self.model).__name__} observes labels, and {data.name} has none: choose another data set, "
                "such as data=binarised_mnist or data=dynamic_mnist, or model=vae"
            )

    def setup(self, stage: str) -> None:
        """Refuse labels that the model does not know.

        Raises:
            UserError: with the number of classes that is needed.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        largest = int(max(data.train.y.max(), data.test.y.max()))
        if largest >= self.model.num_classes:
            raise UserError(
                f"model.num_classes={self.model.num_classes}: {data.name} has labels from 0 to {largest}: "
                f"model.num_classes={largest + 1} has room for them"
            )

    def observed(self, batch: Batch) -> Batch:
        """Images and labels."""
        return batch


class Iteration(Optimizer):
    """An optimiser to Lightning, which counts its steps: a step is one iteration of a classical inference.

    Args:
        model: the inference, which changes its own state.
    """

    def __init__(self, model: Inference) -> None:
        super().__init__(list(model.buffers()), {})
        self.iterate = model.iterate
        self.monitors: dict[str, Tensor] = {}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Iterate, and keep the numbers that the inference is followed by."""
        self.monitors = self.iterate()


class IterativeModule(pl.LightningModule, ABC):
    """Iterates a classical inference on the whole training set, once a batch, and stops when it has converged.

    No gradients are taken, and all is in float64 on the CPU, whatever the trainer's device. Logs the inference's
    numbers as `train/*` every `trainer.log_every_n_steps` steps; reports them at the end, with exact values beside
    estimates where there are any.
    """

    model: Inference
    results: dict[str, float]
    automatic_optimization = False

    def check(self, data: Any) -> None:
        """Refuse data, not read yet, that the inference is not about.

        Raises:
            UserError: with the reason and the options that work.
        """
        self.model.check(data.protocol)

    def setup(self, stage: str) -> None:
        """Refuse several devices, before Lightning looks for gradients to exchange.

        Raises:
            UserError: with the way out.
        """
        if self.trainer.world_size > 1:
            raise UserError(f"{self._get_name()} iterates on one device: trainer=cpu or trainer.devices=1")

    @abstractmethod
    def training_set(self) -> Iterable[Tensor]:
        """All training examples once, in batches."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Stay on the CPU in float64, whatever the trainer's device and precision."""
        return self

    def configure_optimizers(self) -> Optimizer:
        """The iteration."""
        return Iteration(self.model)

    def on_train_epoch_start(self) -> None:
        """Take in the data, and start, unless the state was restored.

        Raises:
            UserError: for data that do not fit.
        """
        self.model.begin(x.to(self.device) for x in self.training_set())

    on_test_start = on_train_epoch_start

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One iteration; none when a run is resumed that has converged.

        Raises:
            Diverged: when the bound is no longer finite.
        """
        if self.model.converged:
            self.trainer.should_stop = True
            return
        iteration: Any = self.optimizers()
        iteration.step()
        monitors = iteration.optimizer.monitors
        if not torch.isfinite(monitors["elbo"]):
            raise Diverged(
                f"the iteration diverged: the bound is {monitors['elbo'].item()} at step {self.global_step}; "
                "take smaller steps"
            )
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0: never
        self.trainer.should_stop = self.model.converged
        due = every > 0 and self.global_step % every == 0
        if due or self.trainer.should_stop or self.trainer.is_last_batch:
            self.log_dict({f"train/{name}": value for name, value in monitors.items()})

    def on_test_end(self) -> None:
        """Report the inference."""
        origin = self.trainer.datamodule.protocol  # type: ignore[attr-defined]
        truth = origin.truth if isinstance(origin, Source) else {}
        self.results |= {
            "train/elbo": self.model.history.values["elbo"][-1],
            "train/iterations": self.model.iterations,
            "model/parameters": self.model.num_parameters,
            **self.model.estimates(),
            **(self.model.errors(truth) if truth else {}),
        }


class ClassicalModule(IterativeModule):
    """A classical inference about its own data, which has no test set.

    Args:
        model: the inference.
        eval_samples: accepted for `evaluate.py`; nothing is drawn.
    """

    def __init__(self, model: Inference, eval_samples: PositiveInt = 1) -> None:
        super().__init__()
        self.model = model
        self.results = {}

    def training_set(self) -> Iterable[Tensor]:
        """The observations as one batch: the loader repeats it for every step."""
        return [self.trainer.datamodule.source.x]  # type: ignore[attr-defined]

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: there is no test set."""


class LikelihoodModule(IterativeModule, ScoringModule):  # type: ignore[misc]  # a model that is both
    """A classical inference of a density, which is scored on held-out data too."""

    def observed(self, batch: Batch) -> Any:
        """The images, which may live on the trainer's device."""
        return batch.x.to(self.device)

    def training_set(self) -> Iterable[Tensor]:
        """The images of one epoch."""
        batches = self.trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        return (batch.x for batch in batches)
