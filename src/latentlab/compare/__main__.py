"""`latentlab compare RUN RUN ... out=FILE`: a figure or a table of several runs.

A RUN is a run directory, or a folder such as multirun/NAME with runs below it. Options may be given as `--out FILE` or
`out=FILE`. Runs that cannot be compared are named on standard error and left out.
"""

import csv
import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from latentlab.cli.command import OneLineParser
from latentlab.cli.screen import warn
from latentlab.cli.script import typed
from latentlab.compare import models
from latentlab.compare.curves import curves
from latentlab.compare.distances import distances, read_distances
from latentlab.compare.gaps import gaps, read_gaps
from latentlab.compare.rate_distortion import rate_distortion, read_rate
from latentlab.compare.runs import Experiment, collect, incomparable
from latentlab.compare.table import FORMS, Results, differences, table
from latentlab.errors import UserError
from latentlab.figures.drawing import Figure, save
from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import read_curve
from latentlab.run.results import read_evaluation, read_results

FIGURES = (".png", ".pdf", ".svg")
# The figures other than curves of a metric by epoch: the reader of a run, and the function that draws. Their parameters
# after the first one are options of the command line, which are listed in OPTIONS.
PLANES: dict[str, tuple[Callable[..., Any], Callable[..., Figure]]] = {
    "rate_distortion": (read_rate, rate_distortion),
    "distances": (read_distances, distances),
    "gaps": (read_gaps, gaps),
    "latents": (models.read_model, models.latents),
    "samples": (models.read_model, models.samples),
    "decoders": (models.read_model, models.decoders),
}
# The figures whose numbers are written as a table by out=FILE.csv.
TABLED = {"distances", "gaps"}
OPTIONS = ("rows", "mean", "max_points", "trust")
TABLES = {".csv": "csv", ".md": "markdown", ".tex": "latex"}


def parse(words: Sequence[str]) -> Namespace:
    """Parse the command line.

    Raises:
        UserError: for a mistake in it.
    """
    parser = OneLineParser(
        prog=typed("compare"),
        description="Draw a metric of several runs by epoch or another figure, or print a table of their results.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run directory, or a folder of runs"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="a figure (.png, .pdf, .svg) or a table (.csv, .md, .tex)"
    )
    parser.add_argument(
        "--figure",
        choices=PLANES,
        metavar="NAME",
        help=f"the figure instead of a metric by epoch: {', '.join(PLANES)}",
    )
    parser.add_argument("--table", choices=FORMS, metavar="FORM", help=f"print a table: {', '.join(FORMS)}")
    parser.add_argument(
        "--metric",
        help="a column of metrics.csv (default val/elbo), or results for a table (test/elbo,test/nll)",
    )
    parser.add_argument("--first", type=int, default=1, metavar="EPOCH", help="the first epoch to draw")
    parser.add_argument(
        "--rows", type=_up_to(100), metavar="N", help="the rows and columns of a grid of images (default 8)"
    )
    parser.add_argument(
        "--max_points", type=_up_to(10**6), metavar="N", help="the largest number of points of figure=latents"
    )
    parser.add_argument(
        "--mean", type=_switch, metavar="true", help="draw means of p(x|z) instead of samples"
    )
    parser.add_argument(
        "--trust", type=_names, metavar="MODULES", help="modules of your own whose classes the runs may use"
    )
    given = parser.parse_args(
        [
            re.sub(r"^(out|figure|table|metric|first|rows|mean|max_points|trust)=", r"--\1=", word)
            for word in words
        ]
    )
    if given.out is None and given.table is None:
        parser.error("give out=FILE or table=text")
    if given.out is not None and given.out.suffix not in (*FIGURES, *TABLES):
        parser.error(f"out={given.out}: the name must end in {', '.join((*FIGURES, *TABLES))}")
    endings = (*FIGURES, *(".csv" for _ in TABLED & {given.figure}))
    if given.figure and (given.out is None or given.out.suffix not in endings or given.metric or given.table):
        parser.error(
            f"figure={given.figure} needs out= with a name that ends in {', '.join(endings)}, and no metric or table"
        )
    known = {name for each in PLANES.get(given.figure, ()) for name in signature(each).parameters}
    for name in OPTIONS:
        if getattr(given, name) is not None and name not in known:
            parser.error(f"{name}={getattr(given, name)}: no figure was asked for that takes it")
    return given


def _up_to(most: int) -> Callable[[str], int]:
    def number(word: str) -> int:
        if not word.isdecimal() or not 1 <= int(word) <= most:
            raise ArgumentTypeError(f"{word} is no number from 1 to {most:,}")
        return int(word)

    return number


def _switch(word: str) -> bool:
    if word not in ("true", "false"):
        raise ArgumentTypeError(f"{word} is neither true nor false")
    return word == "true"


def _names(word: str) -> list[str]:
    return [name for name in re.split(r"[\[\],\s]+", word) if name]


def _chosen(function: Callable[..., Any], given: Namespace) -> dict[str, Any]:
    """Return the options that were given and that a function takes."""
    values = {name: getattr(given, name) for name in OPTIONS if name in signature(function).parameters}
    return {name: value for name, value in values.items() if value is not None}


def main(words: Sequence[str]) -> None:
    """Write the figure or the table, and print its path. Without a path, print the table.

    Raises:
        UserError: for a mistake in the command line, or if no run can be compared.
    """
    given = parse(words)
    if given.figure:
        read, draw = PLANES[given.figure]
        placed, left_out = collect(given.runs, partial(read, **_chosen(read, given)))
        _warn(placed, left_out)
        drawn_figure = draw(placed, **_chosen(draw, given))
        if given.out.suffix == ".csv":
            print(_save_table(drawn_figure, given.out))
        else:
            print(save(drawn_figure, given.out))
        return
    if given.out is not None and given.out.suffix in FIGURES:
        metric = given.metric or "val/elbo"
        drawn, left_out = collect(given.runs, lambda run: read_curve(run.metrics, metric))
        _warn(drawn, left_out)
        print(save(curves(drawn, metric, given.first), given.out))
        return
    found, left_out = collect(given.runs, _results)
    _warn(found, left_out)
    _warn_of_draws(found)
    form, metrics = given.table or TABLES[given.out.suffix], given.metric.split(",") if given.metric else ()
    text = table(found, metrics, form)
    for line in differences(found, metrics):
        warn(line)
    if given.out is None:
        print(text, end="")
    else:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text)
        print(given.out)


def _save_table(figure: Any, path: Path) -> Path:
    (numbers,) = figure.tables.values()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([numbers.columns, *numbers.rows])
    return path


def _results(run: RunDirectory) -> Results:
    # The summary comes last: evaluate.py may have scored the same bound with other settings.
    evaluation = read_evaluation(run.evaluation, run.best_checkpoint)
    return {**evaluation, **read_results(run.summary)}


def _warn(experiments: Sequence[Experiment[Any]], left_out: Sequence[str]) -> None:
    for line in filter(None, [*left_out, incomparable(experiments)]):
        warn(line)


def _warn_of_draws(experiments: Sequence[Experiment[Results]]) -> None:
    results = [run.values for each in experiments for run in each.runs]
    draws = {each["test/nll_samples"] for each in results if "test/nll_samples" in each}
    if len(draws) > 1:
        numbers = ", ".join(f"{number:,}" for number in sorted(draws))
        warn(f"test/nll is estimated with different numbers of draws: {numbers}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as mistake:
        warn(f"error: {mistake}")
        sys.exit(1)
