"""The stability of distances between the same test images over retrained models."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from statistics import fmean
from textwrap import fill

from latentlab.compare.rate_distortion import short
from latentlab.compare.runs import Experiment, incomparable
from latentlab.errors import UserError
from latentlab.figures.drawing import Table, TabledFigure, plain
from latentlab.run.directory import RunDirectory
from latentlab.run.files import read_text
from latentlab.run.results import Spread

KINDS = ("geodesic", "euclidean")
COLUMNS = ("pair", "first", "second")
# Distances by kind, then by pair: the number of the pair, and the two test images.
Distances = Mapping[str, Mapping[tuple[int, ...], float]]


@dataclass(frozen=True)
class Variation:
    """Coefficients of variation of an experiment, one for each pair, by kind."""

    label: str
    runs: int
    values: Mapping[str, Sequence[float]]


def read_distances(run: RunDirectory) -> Distances:
    """Return the distances that an evaluation with `geometry.pairs` has written.

    Raises:
        UserError: if there are none.
    """
    if not run.geodesics.exists():
        raise UserError("it has no geodesics.csv: run evaluate.py run=RUN geometry.pairs=10")
    try:
        rows = list(csv.DictReader(StringIO(read_text(run.geodesics))))
        pairs = [tuple(int(row[name]) for name in COLUMNS) for row in rows]
        return {kind: {p: float(r[kind]) for p, r in zip(pairs, rows, strict=True)} for kind in KINDS}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.geodesics} is damaged ({error}): evaluate the run again") from None


def variation(experiment: Experiment[Distances]) -> Variation:
    r"""Return the coefficients of variation $s / \bar d$ of each pair's distance over the runs of an experiment.

    Raises:
        UserError: for a single run, or if its runs have no common pair.
    """
    found = [run.values for run in experiment.runs]
    if len(found) < 2:
        raise UserError(f"{experiment.label}: a variation needs two runs or more, such as seed=1,2,3,4,5")
    pairs = sorted(set.intersection(*(set(each[KINDS[0]]) for each in found)))
    if not pairs:
        raise UserError(f"{experiment.label}: its runs have no common pair of test images")
    return Variation(
        experiment.label,
        len(found),
        {kind: [_coefficient([each[kind][pair] for each in found]) for pair in pairs] for kind in KINDS},
    )


def _coefficient(values: Sequence[float]) -> float:
    spread = Spread.of(values)
    return (spread.deviation or 0.0) / spread.mean


def distances(experiments: Sequence[Experiment[Distances]]) -> TabledFigure:
    """Draw the coefficients of variation of geodesic and of Euclidean distances, a bar each for an experiment.

    A bar is the mean over pairs, and each dot is a pair.
    """
    found = [variation(each) for each in experiments]
    columns = ["experiment", "runs", "pairs", *KINDS]
    rows = [
        [each.label, each.runs, len(each.values[KINDS[0]]), *(fmean(each.values[kind]) for kind in KINDS)]
        for each in found
    ]
    size = (max(4.8, 1.6 * len(found) + 1.6), 4.2)
    figure = TabledFigure({"distances": Table(columns, rows)}, figsize=size)
    axes = figure.add_subplot()
    for number, kind in enumerate(KINDS):
        for place, each in enumerate(found):
            values, x = each.values[kind], place + 0.4 * number - 0.2
            mean = fmean(values)
            axes.bar(x, mean, 0.36, color=f"C{number}", alpha=0.6, label=kind if place == 0 else None)
            axes.plot([x] * len(values), values, "k.", markersize=4)
            axes.annotate(
                f"{mean:.3f}", (x, 0), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8
            )
    labels = short([each.label for each in found])
    axes.set_xticks(
        range(len(found)),
        [fill(f"{text} ({each.runs} runs)", 24) for text, each in zip(labels, found, strict=True)],
    )
    axes.set_ylabel("coefficient of variation over runs")
    axes.set_title(fill(incomparable(experiments), 100), fontsize=8, color="firebrick")
    axes.legend(frameon=False)
    plain(axes)
    return figure
