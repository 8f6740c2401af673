"""What is written and shown of a run: summary.json, evaluation.json, and a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.table import Table

from latentlab.callbacks import BestCheckpoint, Timing
from latentlab.lit import ClassicalModule
from latentlab.models.base import GenerativeModel
from latentlab.run.directory import RunDirectory
from latentlab.run.results import write_results
from latentlab.tracking.record import log_summary

# What is shown of a summary: scores on the test set, and what a classical inference reports.
SHOWN = ("test/", "train/", "estimate/", "exact/", "error/")


def conclude(trainer: pl.Trainer, directory: Path, names: Mapping[str, Any]) -> dict[str, Any]:
    """Write summary.json of a run that was trained and tested; {} on ranks other than the first."""
    if not trainer.is_global_zero:
        return {}
    best = _callback(trainer, BestCheckpoint)
    timing = _callback(trainer, Timing)
    summary = {
        **_described(trainer, names),
        **_validated(trainer, best),
        "best/epoch": best.best_epoch + 1,
        "time/train_seconds": timing.train_seconds,
        **_rates(trainer, timing),
        **_scale(trainer),
    }
    log_summary(trainer.loggers, summary, trainer.global_step)
    write_results(RunDirectory(directory).summary, summary)
    return summary


def conclude_evaluation(
    trainer: pl.Trainer, directory: Path, names: Mapping[str, Any], estimates: Mapping[str, float]
) -> dict[str, Any]:
    """Write evaluation.json and print it as a table."""
    results = {**_described(trainer, names), **estimates}
    write_results(RunDirectory(directory).evaluation, results)
    show(results, directory)
    return results


def show(summary: Mapping[str, Any], directory: Path) -> None:
    """Print the test metrics, and those of a classical inference, as a small table; nothing of an empty summary."""
    if not summary:
        return
    unit = ", nats per example" if "test/reconstruction" in summary else ", nats"
    table = Table(title=f"{summary['model']} on {summary['data']} ({summary['protocol']}){unit}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in summary.items():
        if name.startswith(SHOWN) and not name.endswith("_stderr"):
            stderr = summary.get(f"{name}_stderr")
            error = "" if stderr is None else f" +- {stderr:.2f}"
            digits = ".2f" if name.startswith("test/") else ".4g" if abs(value) < 0.1 else ".4f"
            table.add_row(name, f"{value:{digits}}{error}" if isinstance(value, float) else f"{value:,}")
    console = Console(soft_wrap=True)
    console.print(table)
    drawn = (directory / "figures").is_dir()
    console.print(f"figures: {directory / 'figures'}" if drawn else f"run: {directory}", highlight=False)


def protocol_of(trainer: pl.Trainer) -> Any:
    """What the numbers are to be read under; a classical inference about its own data names its source."""
    model: Any = trainer.lightning_module.model
    protocol = trainer.datamodule.protocol  # type: ignore[attr-defined]
    return model.scored_as(protocol) if isinstance(model, GenerativeModel) else protocol


def _described(trainer: pl.Trainer, names: Mapping[str, Any]) -> dict[str, Any]:
    module: Any = trainer.lightning_module
    return {
        **names,
        "protocol": protocol_of(trainer).name,
        "model/parameters": sum(parameter.numel() for parameter in module.parameters()),
        **{name: value for name, value in module.results.items() if name.startswith((*SHOWN, "model/"))},
    }


def _validated(trainer: pl.Trainer, best: BestCheckpoint) -> dict[str, float]:
    module: Any = trainer.lightning_module
    if isinstance(module, ClassicalModule):  # best.ckpt is chosen by the training set
        return {name: value for name, value in module.results.items() if name == "val/elbo"}
    return {} if best.best_score is None else {best.monitor: best.best_score}


def _rates(trainer: pl.Trainer, timing: Timing) -> dict[str, float]:
    if isinstance(
        trainer.lightning_module, ClassicalModule
    ):  # an iteration sees all examples, whatever the batch
        return {"time/iterations_per_second": trainer.global_step / max(timing.train_seconds, 1e-9)}
    return {"time/examples_per_second": timing.examples_per_second}


def _scale(trainer: pl.Trainer) -> dict[str, int]:
    if isinstance(trainer.lightning_module, ClassicalModule):
        return {}
    batch = trainer.datamodule.total_batch_size * trainer.accumulate_grad_batches  # type: ignore[attr-defined]
    return {"trainer/devices": trainer.world_size, "trainer/examples_per_step": batch}


def _callback(trainer: pl.Trainer, kind: type) -> Any:
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]
