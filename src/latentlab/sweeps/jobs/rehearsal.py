"""The checks of a single run, made for the jobs of a sweep before the first one starts."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from latentlab.errors import UserError, did_you_mean
from latentlab.run.config import leaves

# Jobs that differ in these alone pass or fail together.
ALIKE = ("seed", "data.seed", "names.", "logger.")
# Every job is rehearsed on one device in this process.
HERE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1}
# The other numbers of summary.json.
SUMMARY = ("best/", "time/", "model/", "trainer/", "estimate/", "exact/", "error/")


def rehearse(configs: Iterable[Mapping[str, Any]]) -> list[frozenset[str]]:
    """Check all that a run checks before it begins, and return the names of the metrics of each different job.

    Raises:
        UserError: for the first mistake in any job.
    """
    different = {json.dumps(_identity(config), default=str): config for config in configs}
    return [_rehearsed(config) for config in different.values()]


def check_reported(key: str, metric: str, metrics: frozenset[str]) -> None:
    """Check that a run reports a metric.

    Args:
        key: the setting that names it.
        metric: its name.
        metrics: the metrics that the run logs, none if they are not known.

    Raises:
        UserError: with the metrics of the run.
    """
    split, _, name = metric.partition("/")
    # The test set may have more terms, such as one for each layer.
    terms = {each.partition("/")[2].split("_")[0] for each in metrics}
    in_test = split == "test" and name.split("_")[0] in terms
    if metrics and not (metric in metrics or in_test or metric.startswith(SUMMARY)):
        raise UserError(
            f"{key}={metric}: no such metric{did_you_mean(metric, metrics)} (a run has {', '.join(sorted(metrics))})"
        )


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in leaves(config) if not key.startswith(ALIKE)}


def _rehearsed(config: Mapping[str, Any]) -> frozenset[str]:
    if config.get("trainer", {}).get("accelerator") != "cpu":
        return frozenset()
    from latentlab.cli import training  # imports Lightning, which takes seconds
    from latentlab.cli.experiment import Experiment

    training.quieten_lightning()
    trainer = {key: value for key, value in config["trainer"].items() if key != "strategy"}
    experiment = Experiment({**config, "trainer": {**trainer, **HERE}})
    data, module = experiment.parts()
    training.restore(module, config["ckpt_path"])
    callbacks = experiment.callbacks()
    training.check_callbacks(callbacks, validates=data.validates)
    trainer = experiment.build("trainer", callbacks=callbacks, logger=False)
    training.check_parts(trainer, module, data, config)
    metrics: frozenset[str] = module.rehearse().metrics
    return metrics
