"""The inference gap of several experiments, a stacked bar of its two parts for each."""

import re
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from latentlab.compare.rate_distortion import short
from latentlab.compare.runs import Experiment, incomparable
from latentlab.errors import UserError
from latentlab.figures.drawing import Table, TabledFigure, plain
from latentlab.run.directory import RunDirectory
from latentlab.run.results import Spread, read_evaluation

PARTS = ("approximation_gap", "amortisation_gap")
COLUMNS = tuple(f"{name}{suffix}" for name in PARTS for suffix in ("", "_stderr"))


def read_gaps(run: RunDirectory) -> Mapping[str, float]:
    """Return the gaps that an evaluation with `gaps.examples` has written, without `test/`.

    Raises:
        UserError: if there are none.
    """
    results: Mapping[str, Any] = read_evaluation(run.evaluation, run.best_checkpoint)
    if not {f"test/{name}" for name in COLUMNS} <= set(results):
        raise UserError("its last evaluation has no gaps: run evaluate.py run=RUN gaps.examples=100")
    return {name: results[f"test/{name}"] for name in COLUMNS}


def gaps(experiments: Sequence[Experiment[Mapping[str, float]]]) -> TabledFigure:
    """Draw the approximation gap and on top of it the amortisation gap of each experiment (Cremer et al. 2018).

    The error bar of a part is the standard error over test examples, or over the seeds of an experiment that has some.
    """
    found = [{name: _part(each, name) for name in PARTS} for each in experiments]
    rows = [
        [each.label, len(each.runs), *(number for name in PARTS for number in parts[name])]
        for each, parts in zip(experiments, found, strict=True)
    ]
    size = (max(4.8, 1.3 * len(rows) + 1.6), 4.2)
    figure = TabledFigure({"gaps": Table(["experiment", "runs", *COLUMNS], rows)}, figsize=size)
    axes = figure.add_subplot()
    bottoms = [0.0] * len(rows)
    for name in PARTS:
        heights, errors = zip(*(parts[name] for parts in found), strict=True)
        axes.bar(
            range(len(rows)), heights, 0.6, bottoms, yerr=errors, capsize=3, label=name.replace("_", " ")
        )
        for x, (height, bottom) in enumerate(zip(heights, bottoms, strict=True)):
            axes.annotate(
                f"{height:.2f}", (x, bottom + height / 2), (6, 0), textcoords="offset points", va="center"
            )
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    labels = short([each.label for each in experiments])
    axes.set_xticks(range(len(rows)), [_lines(text) for text in labels], fontsize=8)
    axes.margins(y=0.2)
    axes.set_ylabel("inference gap, nats per example")
    axes.set_title(fill(incomparable(experiments), 100), fontsize=8, color="firebrick")
    axes.legend(frameon=False, loc="upper center", ncols=2)
    plain(axes)
    return figure


def _lines(label: str) -> str:
    # A class without its module, and a value below its key.
    return "\n".join(re.sub(r"=(?:[a-z_]\w*\.)*", "=\n", word) for word in label.split(", "))


def _part(experiment: Experiment[Mapping[str, float]], name: str) -> tuple[float, float]:
    spread = Spread.of([run.values[name] for run in experiment.runs])
    alone = experiment.runs[0].values[f"{name}_stderr"]
    return spread.mean, alone if spread.error is None else spread.error
