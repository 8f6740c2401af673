"""Learning rates over time: schedules, which know the length of the training, and schedulers that torch lacks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import ceil, cos, inf, pi
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from latentlab.data.module import DataModule
from latentlab.errors import UserError

Interval = Literal["epoch", "step"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
# The names of a scheduler's length in its arguments and in its state.
LENGTHS = ("T_max", "total_steps")


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A learning rate over time, measured in epochs or in steps of the optimiser.

    Attributes:
        interval: the unit of time.
        monitored: True if the rate depends on a validation metric instead of the time.
        monitor: the metric, or None for the one that chooses the best checkpoint.
    """

    interval: Interval = "epoch"
    monitor: str | None = field(default=None, init=False)
    monitored: ClassVar[bool] = False

    @abstractmethod
    def scheduler(self, optimizer: Optimizer, training: int | None) -> LRScheduler:
        """Make the scheduler of an optimiser.

        Args:
            optimizer: the optimiser.
            training: the length of the training in units of `interval`, or None if it is not known.

        Raises:
            UserError: if the schedule needs a length that is not known.
        """


@dataclass(frozen=True, kw_only=True)
class PerEpoch(Schedule):
    """A scheduler of torch or of the user, stepped once an epoch.

    Attributes:
        make: makes the scheduler of an optimiser.
    """

    make: Callable[[Optimizer], LRScheduler]

    def scheduler(self, optimizer: Optimizer, training: int | None) -> LRScheduler:
        return self.make(optimizer)


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    r"""The rate $\eta \gamma^{\lfloor t / s \rfloor}$ after t epochs or steps.

    Attributes:
        step_size: the time s between two decays.
        gamma: the factor of a decay.
    """

    step_size: PositiveInt
    gamma: PositiveFloat = 0.1

    def scheduler(self, optimizer: Optimizer, training: int | None) -> LRScheduler:
        return StepLR(optimizer, self.step_size, self.gamma)


@dataclass(frozen=True, kw_only=True)
class MultiStep(Schedule):
    r"""The rate $\eta \gamma^n$ after n of the milestones.

    Attributes:
        milestones: the times of the decays, in epochs or steps.
        gamma: the factor of a decay.
    """

    milestones: tuple[PositiveInt, ...]
    gamma: PositiveFloat = 0.1

    def scheduler(self, optimizer: Optimizer, training: int | None) -> LRScheduler:
        # The state of torch's MultiStepLR holds a Counter, which is not loaded from a checkpoint.
        return LambdaLR(optimizer, lambda time: self.gamma ** sum(time >= each for each in self.milestones))


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    r"""Half a cosine, $\eta_{min} + \frac{\eta - \eta_{min}}{2}(1 + \cos\frac{\pi t}{T})$ after t epochs or steps.

    Loshchilov & Hutter 2017, eq. 5, without restarts. After time T the rate rises again, as torch's does.

    Attributes:
        T_max: the length T, or None for the length of the training.
        eta_min: the rate at the end.
    """

    T_max: PositiveInt | None = None
    eta_min: NonNegativeFloat = 0.0

    def scheduler(self, optimizer: Optimizer, training: int | None) -> LRScheduler:
        return CosineLR(optimizer, _known("T_max", self.T_max, training, self.interval), self.eta_min)


@dataclass(frozen=True, kw_only=True)
class WarmupCosine(Schedule):
    r"""A linear warm-up, $\eta \frac{t + 1}{w + 1}$ for t < w, and then half a cosine to $\eta_{min}$ at time T.

    Goyal et al. 2017, section 2.2, and Loshchilov & Hutter 2017, eq. 5. The last rate is kept afterwards.

    Attributes:
        warmup: the length w of the warm-up, or its share of T, which is at least 1 where T > 1.
        T_max: the whole length T, or None for the length of the training.
        eta_min: the rate at the end.
    """

    interval: Interval = "step"
    warmup: NonNegativeInt | Fraction = 0.1
    T_max: PositiveInt | None = None
    eta_min: NonNegativeFloat = 0.0

    def scheduler(self, optimizer: Optimizer, training: int | None) -> LRScheduler:
        length = _known("T_max", self.T_max, training, self.interval)
        share = max(round(self.warmup * length), 1)  # in a few epochs it would round to none
        warmup = self.warmup if isinstance(self.warmup, int) else min(share, length - 1)
        if warmup >= length:
            raise UserError(
                f"scheduler.warmup={self.warmup}: the whole schedule takes {length} {self.interval}s: give less"
            )
        return WarmupCosineLR(optimizer, length, self.eta_min, warmup)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """The one-cycle schedule (Smith & Topin 2018): up to `max_lr`, and down to almost zero.

    The momentum, or Adam's first beta, falls while the rate rises. The last rate is kept afterwards.

    Attributes:
        max_lr: the largest rate.
        total_steps: the length in steps, or None for the length of the training.
        pct_start: the share of the steps in which the rate rises.
        anneal_strategy: the shape of both parts.
        cycle_momentum: True to change the momentum too.
        base_momentum: the least momentum.
        max_momentum: the largest momentum.
        div_factor: `max_lr` divided by the first rate.
        final_div_factor: the first rate divided by the last.
    """

    interval: Literal["step"] = "step"
    max_lr: PositiveFloat
    total_steps: PositiveInt | None = None
    pct_start: Fraction = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    cycle_momentum: bool = True
    base_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.85
    max_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    div_factor: PositiveFloat = 25.0
    final_div_factor: PositiveFloat = 1e4

    def scheduler(self, optimizer: Optimizer, training: int | None) -> LRScheduler:
        return HeldOneCycleLR(
            optimizer,
            self.max_lr,
            _known("total_steps", self.total_steps, training, self.interval),
            pct_start=self.pct_start,
            anneal_strategy=self.anneal_strategy,
            cycle_momentum=self.cycle_momentum,
            base_momentum=self.base_momentum,
            max_momentum=self.max_momentum,
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
        )


@dataclass(frozen=True, kw_only=True)
class Plateau(Schedule):
    """A smaller rate after every `patience` + 1 validations without a better metric.

    Attributes:
        mode: "max" for a metric to maximise.
        factor: the factor of a decay.
        patience: the number of validations without improvement that are tolerated.
        threshold: the least improvement, in units of the metric.
        cooldown: the number of validations after a decay that do not count.
        min_lr: the least rate.
    """

    monitored: ClassVar[bool] = True
    interval: Literal["epoch"] = "epoch"
    monitor: str | None = None
    mode: Literal["min", "max"] = "max"
    factor: Fraction = 0.1
    patience: NonNegativeInt = 10
    threshold: NonNegativeFloat = 1e-4
    cooldown: NonNegativeInt = 0
    min_lr: NonNegativeFloat = 0.0

    def scheduler(self, optimizer: Optimizer, training: int | None) -> LRScheduler:
        # Torch's relative threshold takes a slightly worse negative metric for a better one.
        return ReduceLROnPlateau(
            optimizer,
            self.mode,
            self.factor,
            self.patience,
            self.threshold,
            "abs",
            self.cooldown,
            self.min_lr,
        )


class CosineLR(CosineAnnealingLR):
    """The closed form of torch's cosine, which rises again after `T_max`.

    Torch computes each rate from the one before, so that it could not follow another length after a resume.
    """

    def get_lr(self) -> list[Any]:
        return [self._rate(rate, self.last_epoch / self.T_max) for rate in self.base_lrs]

    def _rate(self, base: Any, share: float) -> Any:
        return self.eta_min + (base - self.eta_min) * (1 + cos(pi * share)) / 2


class WarmupCosineLR(CosineLR):
    """A cosine after a linear warm-up. The last rate is kept afterwards."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float, warmup: int) -> None:
        self.warmup = warmup
        super().__init__(optimizer, T_max, eta_min)

    def get_lr(self) -> list[Any]:
        if self.last_epoch < self.warmup:
            return [rate * (self.last_epoch + 1) / (self.warmup + 1) for rate in self.base_lrs]
        share = (self.last_epoch - self.warmup) / (self.T_max - self.warmup)
        return [self._rate(rate, min(share, 1.0)) for rate in self.base_lrs]


class HeldOneCycleLR(OneCycleLR):
    """Torch's one-cycle scheduler, which keeps its last rate where torch's raises an error."""

    def get_lr(self) -> list[Any]:
        step, self.last_epoch = self.last_epoch, min(self.last_epoch, self.total_steps - 1)
        rates = super().get_lr()
        self.last_epoch = step
        return rates


class IWAEStages(LambdaLR):
    r"""Stages i = 0, ..., n - 1 of $3^i$ epochs each at $10^{-i/(n-1)}$ times the optimiser's learning rate.

    Burda et al. 2016, section 5: n = 8 stages, 3,280 epochs. The rate of the last stage is kept afterwards.

    Args:
        optimizer: the optimiser.
        stages: the number n of stages.
    """

    def __init__(self, optimizer: Optimizer, stages: Annotated[int, Field(gt=0, le=30)] = 8) -> None:
        ends = [(3 ** (stage + 1) - 1) // 2 for stage in range(stages)]

        def factor(epoch: int) -> float:
            stage = min(sum(epoch >= end for end in ends), stages - 1)
            return 10 ** (-stage / max(stages - 1, 1))

        super().__init__(optimizer, factor)


def schedule(given: Schedule | Callable[[Optimizer], LRScheduler]) -> Schedule:
    """Return the schedule of a config, which may name a scheduler instead."""
    if isinstance(given, Schedule):
        return given
    if isinstance(given, partial) and given.func is CosineAnnealingLR:  # in runs of older versions
        return Cosine(**{key: value for key, value in given.keywords.items() if key in ("T_max", "eta_min")})
    return PerEpoch(make=given)


def batches_per_epoch(data: DataModule) -> int:
    """Return the number of batches in the whole training set, on any number of devices."""
    return ceil(data.examples_per_epoch / data.total_batch_size)


def limited(limit: float, batches: int) -> int:
    """Return the number of batches that a limit of Lightning's leaves: a number of them, or a share."""
    return min(limit, batches) if isinstance(limit, int) else int(limit * batches)


def steps_per_epoch(trainer: Trainer, data: DataModule) -> int:
    """Return the number of optimiser steps in an epoch, on any number of devices."""
    batches = limited(trainer.limit_train_batches, batches_per_epoch(data))
    return ceil(max(batches, 1) / trainer.accumulate_grad_batches)


def training_length(trainer: Trainer, data: DataModule, interval: Interval) -> int | None:
    """Return the length of a training in epochs or steps, from `max_epochs` and `max_steps`, whichever ends it.

    It is None if neither does, or if the steps of an epoch change during the training.
    """
    if interval == "step" and any(
        isinstance(each, GradientAccumulationScheduler)
        for each in trainer.callbacks  # type: ignore[attr-defined]
    ):
        return None
    epochs, steps = (
        inf if limit in (None, -1) else limit for limit in (trainer.max_epochs, trainer.max_steps)
    )
    each = steps_per_epoch(trainer, data)
    total = min(epochs * each, steps)
    return None if total == inf else int(total) if interval == "step" else ceil(total / each)


def _known(name: str, given: int | None, training: int | None, interval: Interval) -> int:
    length = given or training
    if length is None:
        raise UserError(
            f"scheduler: neither trainer.max_epochs nor trainer.max_steps gives the number of {interval}s of this "
            f"training: set one of them, or scheduler.{name}"
        )
    return length


def extend(
    checkpoint: dict[str, Any], optimizer: Optimizer, scheduler: LRScheduler, interval: Interval
) -> str:
    r"""Continue a run on a schedule of another length, from the time of its checkpoint on.

    The rate after t epochs or steps becomes that of the new schedule at t. Torch would keep the old length.

    Args:
        checkpoint: the state to resume from, which is changed.
        optimizer: a new optimiser.
        scheduler: its scheduler, of the new length.
        interval: the unit of time.

    Returns:
        A line for the user, "" if the length is the old one or the schedule has none.
    """
    [old], new = checkpoint["lr_schedulers"], scheduler.state_dict()
    name = next((name for name in LENGTHS if name in old and name in new), None)
    if name is None or old[name] == new[name]:
        return ""
    scheduler.last_epoch, scheduler._step_count = old["last_epoch"] - 1, old["_step_count"]
    scheduler.step()
    for group, own in zip(
        checkpoint["optimizer_states"][0]["param_groups"], optimizer.param_groups, strict=True
    ):
        group.update({key: value for key, value in own.items() if key in ("lr", "betas", "momentum")})
    checkpoint["lr_schedulers"] = [{**scheduler.state_dict(), "_step_count": old["_step_count"]}]
    return (
        f"scheduler: from {interval} {old['last_epoch'] + 1} on, the learning rate follows a schedule over "
        f"{new[name]} {interval}s instead of {old[name]}"
    )
