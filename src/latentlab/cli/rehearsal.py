"""The rehearsal of a run: mistakes that a step on a few examples shows, found before the run writes anything."""

from collections.abc import Mapping
from math import isfinite, log10
from typing import Any

import pytorch_lightning as pl

from latentlab.cli.memory import check_training
from latentlab.errors import UserError, did_you_mean
from latentlab.lit.base import LitModule
from latentlab.lit.schedulers import batches_per_epoch, limited
from latentlab.run.config import leaves

# The packages whose callbacks log no metrics but these.
KNOWN = ("latentlab.", "pytorch_lightning.")
LOGGED = {f"train/{name}" for name in ("skipped_steps", "gradient_variance", "gradient_norm", "gradient_snr")}


def rehearse(trainer: pl.Trainer, module: LitModule, config: Mapping[str, Any]) -> None:
    """Check the shapes, the metrics and the memory of a run, once its data are read.

    Raises:
        UserError: with the key and the remedy.
    """
    found = module.rehearse()
    if not isfinite(found.bound):
        raise UserError(
            f"{extreme(config['module'])}: the bound is {found.bound} before training: choose a less extreme value"
        )
    batches = check_batches(trainer, module)
    if module.data.validates and trainer.limit_val_batches:  # else the latest epoch is the best one
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # its limits replace those of the config
            check_schedule(config["trainer"], batches)
        check_monitors(config["callbacks"], found.metrics)
    check_training(trainer, module, found, config["module"])


def check_batches(trainer: pl.Trainer, module: LitModule) -> int:
    """Check that the limits of a trainer leave a batch to train on and one to validate on.

    Overfitting validates on one batch at least.

    Returns:
        The number of training batches in an epoch.

    Raises:
        UserError: with the limit that leaves none.
    """
    of_training = "overfit_batches" if trainer.overfit_batches else "limit_train_batches"  # type: ignore[attr-defined]
    number = _check_limit(of_training, trainer.limit_train_batches, batches_per_epoch(module.data))
    if isinstance(limit := trainer.limit_val_batches, float) and 0 < limit < 1 and module.data.validates:
        whole = len(module.data.val_dataloader())
        if trainer.overfit_batches and limit * whole < 1:  # type: ignore[attr-defined]
            trainer.limit_val_batches = 1
        else:
            _check_limit("limit_val_batches", limit, whole)
    return number


def _check_limit(name: str, limit: float, whole: int) -> int:
    number = limited(limit, whole)
    if number == 0:
        raise UserError(
            f"trainer.{name}={limit}: this is less than one of {whole} batches: give a number of batches, such as 1"
        )
    return number


def check_schedule(trainer: Mapping[str, Any], steps: int) -> None:
    """Check that Lightning takes the interval between two validations.

    Args:
        trainer: the trainer's config.
        steps: the number of batches in an epoch.

    Raises:
        UserError: with a setting that works.
    """
    every, interval = trainer.get("check_val_every_n_epoch"), trainer.get("val_check_interval")
    if type(interval) is int and every is not None and interval > steps:
        raise UserError(
            f"trainer.val_check_interval={interval}: an epoch has {steps} batches: give {steps} or less, or a share "
            "such as 0.5"
        )


def extreme(node: Any) -> str:
    """Return the number of a config that is furthest from 1, with its key."""
    sizes = [
        (abs(log10(abs(value))), f"{'.'.join(key.split('.')[-2:])}={value}")
        for key, value in leaves(node)
        if type(value) in (int, float) and value
    ]
    return max(sizes)[1]


def check_monitors(callbacks: Mapping[str, Any], metrics: frozenset[str]) -> None:
    """Check that every metric that a callback monitors will be logged.

    Raises:
        UserError: with the metrics of the run.
    """
    nodes = {name: node for name, node in callbacks.items() if node and "_target_" in node}
    if not all(node["_target_"].startswith(KNOWN) for node in nodes.values()):
        return  # another callback may log more metrics
    for name, node in nodes.items():
        monitor = node.get("monitor")
        if monitor is not None and monitor not in metrics | LOGGED:
            raise UserError(
                f"callbacks.{name}.monitor={monitor}: no such metric{did_you_mean(monitor, metrics)} "
                f"(the metrics of this run are {', '.join(sorted(metrics))})"
            )
