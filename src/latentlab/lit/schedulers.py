"""Learning-rate schedulers that torch lacks, and the extension of a cosine."""

from collections.abc import Callable
from functools import partial
from math import cos, pi
from typing import Annotated, Any

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler


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


def extend_cosine(checkpoint: dict[str, Any], scheduler: Callable[[Optimizer], LRScheduler]) -> str:
    r"""Continue a run on the cosine of its new scheduler, from the epoch of its checkpoint on.

    The learning rate after e epochs becomes $\eta_{min} + \frac{\eta - \eta_{min}}{2}(1 + \cos\frac{\pi e}{T})$ with
    the new number T of epochs. Torch's scheduler would keep the old T, and updates the rate recursively, so that it
    would stay at $\eta_{min}$ once it was there.

    Args:
        checkpoint: the state to resume from, which is changed.
        scheduler: makes the new scheduler.

    Returns:
        A line for the user, "" if the number of epochs is the old one or the scheduler is no cosine.
    """
    if not isinstance(scheduler, partial) or scheduler.func is not CosineAnnealingLR:
        return ""
    length, [state] = scheduler.keywords["T_max"], checkpoint["lr_schedulers"]
    if state["T_max"] == length:
        return ""
    share = (1 + cos(pi * state["last_epoch"] / length)) / 2
    rates = [state["eta_min"] + (rate - state["eta_min"]) * share for rate in state["base_lrs"]]
    before, state["T_max"], state["_last_lr"] = state["T_max"], length, rates
    for group, rate in zip(checkpoint["optimizer_states"][0]["param_groups"], rates, strict=True):
        group["lr"] = rate
    return (
        f"scheduler=cosine: from epoch {state['last_epoch'] + 1} on, the learning rate follows a cosine over {length} "
        f"epochs instead of {before}"
    )
