"""The report of a run or an evaluation: summary.json or evaluation.json, and a table on the terminal."""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from latentlab.callbacks import BestCheckpoint, Timing
from latentlab.classical.base import Source
from latentlab.cli.screen import say, show_table, terminal, warn
from latentlab.errors import UserError
from latentlab.lit import ClassicalModule
from latentlab.lit.base import LitModule
from latentlab.models.base import GenerativeModel
from latentlab.protocols import Protocol
from latentlab.run.directory import RunDirectory
from latentlab.run.results import EARLIER, SETTINGS, write_evaluation, write_results
from latentlab.tracking.record import log_summary

log = logging.getLogger(__name__)

# The list of cautions in summary.json and evaluation.json, missing if there are none.
REMARKS = "remarks"
# The numbers in the table: results on the test set, and the results of a classical inference.
SHOWN = ("test/", "train/", "estimate/", "exact/", "error/")


def conclude(trainer: pl.Trainer, directory: Path, names: Mapping[str, Any]) -> dict[str, Any]:
    """Write summary.json of a trained and tested run, and return it on the first rank, {} on others."""
    if not trainer.is_global_zero:
        return {}
    # The number of batches of a dry run, whose numbers mean nothing.
    dry = {"dry_run": int(batches)} if (batches := trainer.fast_dev_run) else {}  # type: ignore[attr-defined]
    summary = {**_described(trainer, names), **_course(trainer), **dry}
    log_summary(trainer.loggers, summary, trainer.global_step)
    write_results(RunDirectory(directory).summary, summary)
    return summary


def conclude_evaluation(
    trainer: pl.Trainer,
    directory: Path,
    names: Mapping[str, Any],
    estimates: Mapping[str, float],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write evaluation.json, and return its contents. Earlier results with other `settings` stay in it."""
    results, path = {**_described(trainer, names), **estimates}, RunDirectory(directory).evaluation
    near = list(_near_limit(estimates))
    for remark in near:
        log.warning(remark)
    if near:
        results[REMARKS] = [*results.get(REMARKS, []), *near]
    written = write_evaluation(path, results, settings)
    if others := written.get(EARLIER):
        number = "an evaluation" if len(others) == 1 else f"{len(others)} evaluations"
        log.info("evaluation.json keeps the results of %s with other settings", number)
    return written


def show(summary: Mapping[str, Any], directory: Path) -> None:
    """Print the numbers of a summary as a table, or nothing for an empty summary."""
    if not summary:
        return
    split = _split(summary)
    unit = ", nats per example" if f"{split}/reconstruction" in summary else ", nats"
    names = SHOWN if split == "test" else (f"{split}/",)
    title = f"{summary['model']} on {summary['data']} ({summary['protocol']}){unit}"
    rows = [
        [name, _rounded(name, value, summary.get(f"{name}_stderr"))]
        for name, value in summary.items()
        if name.startswith(names) and (not name.endswith("_stderr") or name.endswith("_mc_stderr"))
    ]
    console = terminal()
    say(console, f"dry run, {_batches(summary['dry_run'])}: {title}" if "dry_run" in summary else title)
    show_table(console, ["metric", "value"], rows)
    if "best/score" in summary and "trainer/epochs" in summary:  # a classical inference has iterations
        say(console, _best_line(summary))
    figures = RunDirectory(directory).figures
    say(console, f"figures: {figures}" if figures.is_dir() else f"run: {directory}")


def show_line(results: Mapping[str, Any], run: str) -> None:
    """Print the bound and the NLL of one run of several."""
    shown = [
        f"{name} {_rounded(name, results[name], results.get(f'{name}_stderr'))}"
        for name in (f"{_split(results)}/elbo", f"{_split(results)}/nll")
        if name in results
    ]
    say(terminal(), "  ".join([run, *shown]))


def show_experiments(results: Mapping[Path, Mapping[str, Any]]) -> None:
    """Print the results of several runs, with mean, standard deviation and standard error over seeds.

    Args:
        results: the results by run directory.
    """
    # Late: it imports what draws figures.
    from latentlab.compare.runs import incomparable, read_runs
    from latentlab.compare.table import METRICS, table

    if not results:
        return
    try:
        found, left_out = read_runs(results, lambda run: results[run.path])
    except UserError as error:  # runs that have not finished
        warn(f"no table: {error}")
        return
    for line in filter(None, [*left_out, incomparable(found)]):
        warn(line)
    known = {name for each in results.values() for name in each}
    splits = {_split(each) for each in results.values()}
    names = [name.replace("test/", f"{split}/") for split in splits for name in METRICS]
    print(table(found, [name for name in names if name in known], "text"), end="")


def _split(results: Mapping[str, Any]) -> str:
    # The split that an evaluation has scored.
    return str(results.get(SETTINGS, {}).get("split", "test"))


def _best_line(summary: Mapping[str, Any]) -> str:
    epoch, epochs = summary["best/epoch"], summary["trainer/epochs"]
    line = f"best epoch {epoch} of {epochs}, by {summary['best/metric']} {summary['best/score']:.2f}"
    # The last epoch may have ended early.
    return f"{line}, after {summary['best/step']:,} steps" if "best/step" in summary else line


def _batches(number: int) -> str:
    return "1 batch" if number == 1 else f"{number} batches"


def _rounded(name: str, value: float, stderr: float | None) -> str:
    if not isinstance(value, float):
        return f"{value:,}"
    digits = ".4g" if 0 < abs(value) < 0.1 else ".2f" if name.startswith(("test/", "val/")) else ".4f"
    error = "" if stderr is None else f" +- {stderr:{digits.replace('4', '2')}}"
    return f"{value:{digits}}{error}"


def _described(trainer: pl.Trainer, names: Mapping[str, Any]) -> dict[str, Any]:
    module = LitModule.of(trainer.lightning_module)
    reported = (*SHOWN, "model/", f"{module.data.tested}/")
    return {
        **names,
        "protocol": _protocol(module).name,
        "model/parameters": sum(parameter.numel() for parameter in module.parameters()),
        **{name: value for name, value in module.results.items() if name.startswith(reported)},
        **_cautioned(module),
    }


def _cautioned(module: LitModule) -> dict[str, list[str]]:
    protocol = _protocol(module)
    scored = isinstance(module.model, GenerativeModel) and module.model.bounded
    return (
        {REMARKS: [protocol.remark]} if scored and isinstance(protocol, Protocol) and protocol.remark else {}
    )


def _near_limit(found: Mapping[str, float]) -> Iterator[str]:
    # An estimate from N examples within 1 nat of log N is too small for the data that they are a sample of.
    for name, value in found.items():
        split, _, word = name.partition("/")
        limit = found.get(f"{split}/mutual_information_limit")
        if re.fullmatch(r"mutual_information(_\d+)?", word) and limit is not None and value > limit - 1:
            yield (
                f"{name} is close to its limit log N of the set's N examples: for more data, it is larger, and "
                f"{name.replace('mutual_information', 'aggregate_kl')} smaller"
            )


def _protocol(module: LitModule) -> Protocol | Source:
    """Return the protocol under which the bound is reported, or the source of a classical inference's data."""
    protocol = module.data.protocol
    if isinstance(module.model, GenerativeModel) and isinstance(protocol, Protocol):
        return module.model.scored_as(protocol)
    return protocol


def _course(trainer: pl.Trainer) -> dict[str, Any]:
    module = LitModule.of(trainer.lightning_module)
    best, timing = _callback(trainer, BestCheckpoint), _callback(trainer, Timing)
    times = {**_chosen(best), "time/train_seconds": timing.train_seconds}
    if isinstance(module, ClassicalModule):
        # An iteration sees all examples, and the training set chooses best.ckpt.
        rate = trainer.global_step / max(timing.train_seconds, 1e-9)
        validated = {name: value for name, value in module.results.items() if name == "val/elbo"}
        return {**validated, **times, "time/iterations_per_second": rate}
    return {
        # The score by which best.ckpt was chosen, and the model's own bound, which may be another.
        **({} if best.best_score is None else {best.monitor: best.best_score}),
        **{name: value for name, value in best.best_metrics.items() if name == f"val/{module.model.bound}"},
        **times,
        "time/examples_per_second": timing.examples_per_second,
        "trainer/epochs": max(trainer.current_epoch, times["best/epoch"]),
        "trainer/devices": trainer.world_size,
        "trainer/examples_per_step": module.data.total_batch_size * trainer.accumulate_grad_batches,
    }


def _chosen(best: BestCheckpoint) -> dict[str, Any]:
    """Return the place of best.ckpt in the training, and the score that chose it."""
    assert best.best_epoch is not None
    found: dict[str, Any] = {"best/epoch": best.best_epoch + 1, "best/step": best.best_step}
    if best.best_score is not None:
        found |= {"best/metric": best.monitor, "best/score": best.best_score}
    return {name: value for name, value in found.items() if value is not None}


def _callback(trainer: pl.Trainer, kind: type) -> Any:
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]
