"""The Lightning module of every model that is trained by gradients."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import ceil, isfinite
from typing import Any

import torch
from pydantic import PositiveInt
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from latentlab.batch import Batch
from latentlab.data.loader import TrainingLoader
from latentlab.data.module import DataModule
from latentlab.errors import Diverged, UserError, did_you_mean
from latentlab.lit.base import ScoringModule
from latentlab.lit.rehearsal import Rehearsal, measure
from latentlab.lit.schedulers import Schedule, extend, schedule, training_length
from latentlab.models.base import GenerativeModel
from latentlab.objectives import Clock, Objective
from latentlab.run.checkpoints import read_checkpoint

log = logging.getLogger(__name__)

# The number of training examples that a model is initialised with.
FIRST_EXAMPLES = 10_000


class GradientModule(ScoringModule):
    """A model trained to maximise an objective.

    Logs the parts of the objective, such as `train/elbo`, every `trainer.log_every_n_steps` steps. Validation has the
    objective too, such as `val/iwae`, beside the model's own bound. It chooses the best checkpoint.

    Args:
        model: the generative model with its inference network.
        objective: the bound to maximise.
        optimizer: makes the optimiser of the given parameters.
        scheduler: the schedule of the learning rate, or makes a scheduler that is stepped once an epoch.
        eval_samples: the number of draws of the latents per example in evaluation.

    Raises:
        UserError: if the objective is not defined for the model.
    """

    def __init__(
        self,
        model: GenerativeModel,
        objective: Objective,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        scheduler: Schedule | Callable[[Optimizer], LRScheduler],
        eval_samples: PositiveInt = 1,
    ) -> None:
        super().__init__(model, eval_samples)
        objective.check(model)
        self.objective = objective
        self.make_optimizer = optimizer
        self.schedule = schedule(scheduler)

    @property
    def monitor(self) -> str:
        return f"val/{self.objective.criterion}"

    @property
    def most_draws(self) -> int:
        return max(self.eval_samples, self.objective.draws)

    def check(self, data: DataModule) -> None:
        super().check(data)
        if self.model.labelled and not data.labelled:
            raise UserError(
                f"{type(self.model).__name__} observes labels, and {data.name} has none: choose a labelled data set, "
                "such as data=binarised_mnist or data=dynamic_mnist, or model=vae"
            )
        if self.model.labelled and not self.model.infers_labels and getattr(data, "labels", None):
            raise UserError(
                f"{type(self.model).__name__} needs every label, and data.labels hides some: choose "
                "model=semi_supervised_vae, or leave out data.labels"
            )

    def setup(self, stage: str) -> None:
        if self.model.labelled:
            self.model.check_classes(self.data.num_classes)

    def check_training(self, new: bool) -> None:
        self._check_scheduler()
        # Optimisers that are made only to be checked. Lightning makes those of the run.
        self.trainer.optimizers = [self.configure_optimizers()["optimizer"]]
        self._check_clipping()
        if new:
            self._adopt()
            self._check_length()

    def _check_length(self) -> None:
        epochs = training_length(self.trainer, self.data, "epoch")
        if epochs is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.objective.check_length(epochs)

    def _check_scheduler(self) -> None:
        if self.schedule.monitored and not (self.data.validates and self.trainer.limit_val_batches):
            raise UserError(
                f"scheduler: {type(self.schedule).__name__} watches {self._watched}, but there is no validation: set "
                "data.val_size, or choose another scheduler, such as scheduler=cosine"
            )
        # Two epochs of a single weight show the errors that a scheduler raises in its steps.
        try:
            optimizer = self.make_optimizer([nn.Parameter(torch.zeros(1))])
            scheduler: Any = self._scheduler(optimizer)
            for _ in range(2):
                optimizer.step(lambda: 0.0)
                scheduler.step(*([0.0] if self.schedule.monitored else []))
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"optimizer or scheduler: {reason}: choose another, such as scheduler=cosine or scheduler=plateau"
            ) from error

    def rehearse(self) -> Rehearsal:
        batch = self.data.training_sample(2)
        self._check_shape(batch)
        names: set[str] = set()
        bounds: list[float] = []

        def score(examples: int, draws: int) -> Tensor:
            x = self.model.observe(Batch(batch.x[:examples], batch.y[:examples]))
            parts = replace(self.objective, samples=draws).parts(self.model, x)
            names.update(f"train/{name}" for name in parts)
            bound = parts[self.objective.bound].mean()
            bounds.append(bound.item())
            return bound

        with self._one_line():
            cost = measure(score, self.state_dict().values(), max(self.objective.samples, self.eval_samples))
            names |= self.scored_metrics(self.model, self.model.observe(batch)) | {self.monitor}
        self._check_plateau(names)
        return Rehearsal(frozenset(names), cost, self.objective.samples, sum(bounds))

    def _check_plateau(self, names: set[str]) -> None:
        validated = sorted(name for name in names if name.startswith("val/"))
        if self.schedule.monitored and self._watched not in validated:
            raise UserError(
                f"scheduler.monitor={self._watched}: validation has no such metric"
                f"{did_you_mean(self._watched, validated)} (it has {', '.join(validated)})"
            )

    def _check_shape(self, batch: Batch) -> None:
        shape = tuple(batch.x.shape[1:])
        if shape != self.model.x_shape:
            raise UserError(
                f"{self.data.name} has images of the shape {[*shape]}, and its class states {[*self.model.x_shape]}: "
                f"return {shape} as `shape` in {type(self.data).__name__}"
            )

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{type(self.model).__name__} cannot take a step on {self.data.name}: {reason} "
                "(debug=traceback shows the traceback)"
            ) from error

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        try:
            optimizer = self.make_optimizer(self.parameters())
            scheduler = self._scheduler(optimizer)
        except ValueError as error:
            raise UserError(f"optimizer or scheduler: {error}") from error
        # A plateau steps after its validation. Lightning would step it after the checkpoint of the epoch.
        frequency = sys.maxsize if self.schedule.monitored else 1
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self.schedule.interval,
                "frequency": frequency,
                "monitor": self._watched,
            },
        }

    def _scheduler(self, optimizer: Optimizer) -> LRScheduler:
        return self.schedule.scheduler(
            optimizer, training_length(self.trainer, self.data, self.schedule.interval)
        )

    def on_fit_start(self) -> None:
        shared = shares(
            self.data.total_batch_size, self.trainer.world_size, self.trainer.accumulate_grad_batches
        )
        if shared and self.trainer.is_global_zero:
            log.info(shared)
        if self.trainer.ckpt_path is None:  # a resumed model is initialised already
            self._initialise()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            optimizer = self.make_optimizer(self.parameters())
            line = extend(checkpoint, optimizer, self._scheduler(optimizer), self.schedule.interval)
            if line and self.trainer.is_global_zero:
                log.info(line)

    def _adopt(self) -> None:
        if self.model.pretrained is not None:
            state = read_checkpoint(self.model.pretrained, "model.pretrained")["state_dict"]
            self.model.adopt({name.removeprefix("model."): value for name, value in state.items()})

    def _initialise(self) -> None:
        self._adopt()
        examples = self.data.training_sample(FIRST_EXAMPLES).to(self.device)
        self.model.initialise(self.model.observe(examples))

    def _check_clipping(self) -> None:
        [optimizer] = self.trainer.optimizers
        mixed = self.trainer.precision.endswith("-mixed")
        if mixed and self.trainer.gradient_clip_val and optimizer.defaults.get("fused"):
            raise UserError(
                f"trainer.gradient_clip_val={self.trainer.gradient_clip_val} with trainer.precision="
                f"{self.trainer.precision}: gradients of a fused optimiser cannot be clipped: "
                "set optimizer.fused=false"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.model.anneal(self.global_step)

    @staticmethod
    def parts(objective: Objective, model: GenerativeModel, x: Any) -> Mapping[str, Tensor]:
        """The parts of the objective in a training step. `compile_objective` replaces this function."""
        return objective.parts(model, x)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss. The bound is negated here and nowhere else."""
        objective = self.objective.at(self.clock)
        with self._valid_parameters():
            parts = self.parts(objective, self.model, self.model.observe(batch))
        self._report(parts, batch_idx)
        return -self._mean(parts[objective.bound], batch_idx)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.passes.together = self.objective.separable

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with self._valid_parameters():
            super().validation_step(batch, batch_idx)

    def validation_terms(self, x: Any, samples: int) -> dict[str, Tensor]:
        return super().validation_terms(x, samples) | self.objective.validation_terms(self.model, x)

    def validated(self, means: Mapping[str, float]) -> dict[str, float]:
        return self.objective.validated(means)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if (
            self.schedule.monitored
            and self.in_final_phase
            and self.trainer.state.fn == TrainerFn.FITTING
            and not self.trainer.sanity_checking
            and not getattr(
                self.trainer.fit_loop.epoch_loop, "extra", False
            )  # see `callbacks.ending.EpochLoop`
        ):
            [config] = self.trainer.lr_scheduler_configs
            assert isinstance(config.scheduler, ReduceLROnPlateau)
            config.scheduler.step(self.results[self._watched])

    @property
    def _watched(self) -> str:
        # The metric of a plateau.
        return self.schedule.monitor or self.chosen_by

    @property
    def clock(self) -> Clock:
        """The progress of training, which warm-ups of the objective depend on."""
        return self._clock(self.global_step)

    def _clock(self, step: int) -> Clock:
        batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        return Clock(step, ceil(batches))

    def is_final(self, step: int) -> bool:
        return self.objective.at(self._clock(step)).final

    def on_train_end(self) -> None:
        if not self.in_final_phase and self.trainer.is_global_zero:
            log.warning(
                "%s ended after %d steps, before its last phase: train longer (trainer.max_epochs or max_time)",
                *(type(self.objective).__name__, self.global_step),
            )

    @property
    def _loader(self) -> TrainingLoader:
        loader = self.trainer.train_dataloader
        assert isinstance(loader, TrainingLoader)
        return loader

    def _mean(self, part: Tensor, batch_idx: int) -> Tensor:
        # Lightning averages the gradients of the ranks, whose shares of a batch may differ by one example.
        mean = part.mean()
        return mean if self.trainer.world_size == 1 else self._loader.weight(batch_idx) * mean

    def _report(self, parts: Mapping[str, Tensor], batch_idx: int) -> None:
        every = self.log_every_n_steps
        due = every > 0 and (self.global_step + 1) % every == 0
        alone = self.trainer.world_size == 1
        # Reading a value synchronises with the GPU and with the other ranks. There, only the steps that log check it.
        if not (due or every == 0 or (alone and parts[self.objective.bound].device.type == "cpu")):
            return
        read = parts if due else [self.objective.bound]
        own = {name: self._mean(parts[name].detach(), batch_idx) for name in read}
        means = own if alone else self._mean_over_ranks(own)
        bound = means[self.objective.bound].item()
        if not isfinite(bound):
            raise self._diverged(f"the bound is {bound}")
        if due:
            self.log_dict({f"train/{name}": mean for name, mean in means.items()})

    def _mean_over_ranks(self, parts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        means = self.trainer.strategy.reduce(torch.stack(list(parts.values())), reduce_op="mean")
        return dict(zip(parts, means, strict=True))

    def _diverged(self, reason: str) -> Diverged:
        return Diverged(
            f"training diverged: {reason} at epoch {self.current_epoch + 1}, step {self.global_step}; "
            "lower optimizer.lr or set trainer.gradient_clip_val (the checkpoints of earlier epochs are kept)"
        )

    @contextmanager
    def _valid_parameters(self) -> Iterator[None]:
        # With validate_args=true, torch refuses invalid parameters of a distribution before there is a bound.
        try:
            yield
        except ValueError as error:
            refused, _, _ = str(error).partition(" (Tensor")
            if not refused.startswith("Expected parameter "):
                raise
            raise self._diverged(
                f"{refused.removeprefix('Expected ')} of a distribution is invalid"
            ) from error


def shares(batch: int, devices: int, accumulated: int) -> str:
    """Describe the examples of an optimiser step, or return "" for one batch on one device.

    Args:
        batch: the size of a batch over all devices.
        devices: the number of devices.
        accumulated: the number of batches in a step.
    """
    least, more = divmod(batch, devices)
    each = f"{least} or {least + 1}" if more else f"{least}"
    parts = [f"batches of {batch}: {each} on each of {devices} devices"] if devices > 1 else []
    if accumulated > 1:
        parts.append(f"{accumulated} batches of {batch} accumulated: {accumulated * batch} examples a step")
    return "; ".join(parts)
