"""The adaptor of classical inference: a step of Lightning's is one iteration, without gradients."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.optim import Optimizer

from latentlab.batch import Batch
from latentlab.classical.base import Inference
from latentlab.classical.sources import Source
from latentlab.errors import Diverged, UserError
from latentlab.lit.base import ScoringModule


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
