"""A table of results: mean, standard deviation and standard error over seeds, as text, CSV, Markdown or LaTeX."""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from rich.console import Console

from latentlab.cli.screen import say, show_table, terminal
from latentlab.compare.runs import Experiment
from latentlab.errors import UserError
from latentlab.run.results import SETTINGS, Spread, is_real

# The default columns are those of these that any run has.
METRICS = ("test/elbo", "test/reconstruction", "test/kl", "test/nll", "test/bits_per_dim")
# The settings of an evaluation that have to be equal in a column of distances, and a part of the names of these.
SAME, DISTANCE = ("fid.reference", "fid.means", "fid.classifier"), "_classifier_"

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """The metrics of an experiment, in the order of the columns."""

    label: str
    n: int
    spreads: Sequence[Spread | None]


def table(experiments: Sequence[Experiment[Results]], metrics: Sequence[str], form: str) -> str:
    """Return a table with a row for each experiment.

    Args:
        experiments: the experiments, with their results by name.
        metrics: names of results, or () for those of METRICS that any run has.
        form: a key of FORMS.

    Raises:
        UserError: if no run has one of the metrics.
    """
    known = {
        name
        for each in experiments
        for run in each.runs
        for name, value in run.values.items()
        if is_real(value)
    }
    chosen = metrics or [name for name in METRICS if name in known]
    for name in chosen:
        if name not in known:
            raise UserError(
                f"metric={name}: no run reports it; choose of {', '.join(sorted(_numbers(known)))}"
            )
    return FORMS[form](chosen, [_row(each, chosen) for each in experiments])


def differences(experiments: Sequence[Experiment[Results]], metrics: Sequence[str]) -> list[str]:
    """Return a remark for each setting of distances that differs in a column, which makes them incomparable."""
    results = [run.values for each in experiments for run in each.runs]
    return [
        f"{metric} has different settings: {name}={' and '.join(sorted(found))}"
        for metric in metrics
        if DISTANCE in metric
        for name in SAME
        if len(found := {str(own[name]) for own in _settings(results, metric) if name in own}) > 1
    ]


def _settings(results: Iterable[Results], metric: str) -> list[Mapping[str, Any]]:
    return [each.get(SETTINGS, {}).get(metric, {}) for each in results]


def _numbers(names: Iterable[str]) -> list[str]:
    return [name for name in names if "/" in name]


def _row(experiment: Experiment[Results], metrics: Sequence[str]) -> Row:
    found = [[run.values[name] for run in experiment.runs if name in run.values] for name in metrics]
    return Row(
        experiment.label, len(experiment.runs), [Spread.of(values) if values else None for values in found]
    )


def _text(metrics: Sequence[str], rows: Sequence[Row]) -> str:
    console = Console(file=StringIO(), width=terminal().width)
    cells = [[row.label, str(row.n), *(_cell(each, "±") for each in row.spreads)] for row in rows]
    show_table(console, ["experiment", "n", *metrics], cells)
    say(console, LEGEND.format("±"))
    return console.file.getvalue()  # type: ignore[attr-defined]


def _csv(metrics: Sequence[str], rows: Sequence[Row]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("n", "mean", "standard_deviation", "standard_error")
    writer.writerow(["experiment", *(f"{name} {part}" for name in metrics for part in parts)])
    writer.writerows([row.label, *(value for each in row.spreads for value in _values(each))] for row in rows)
    return text.getvalue()


def _values(spread: Spread | None) -> tuple[float | None, ...]:
    return (
        (0, None, None, None) if spread is None else (spread.n, spread.mean, spread.deviation, spread.error)
    )


def _markdown(metrics: Sequence[str], rows: Sequence[Row]) -> str:
    body = [[row.label, str(row.n), *(_cell(each, "±") for each in row.spreads)] for row in rows]
    lines = [["experiment", "n", *metrics], ["---", *["---:"] * (1 + len(metrics))], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{LEGEND.format('±')}\n"


def _latex(metrics: Sequence[str], rows: Sequence[Row]) -> str:
    body = [
        [_escaped(row.label), str(row.n), *(_cell(each, r"$\pm$") for each in row.spreads)] for row in rows
    ]
    lines = [["experiment", "$n$", *map(_escaped, metrics)], *body]
    head, *rest = [" & ".join(line) + r" \\" for line in lines]
    columns = "l" + "r" * (1 + len(metrics))
    drawn = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\hline",
        head,
        r"\hline",
        *rest,
        r"\hline",
        r"\end{tabular}",
    ]
    return "\n".join([f"% {LEGEND.format('+-')}", *drawn]) + "\n"


LEGEND = "mean {} standard deviation (standard error) over n seeds"
FORMS: dict[str, Callable[[Sequence[str], Sequence[Row]], str]] = {
    "text": _text,
    "csv": _csv,
    "markdown": _markdown,
    "latex": _latex,
}


def _cell(spread: Spread | None, sign: str) -> str:
    if spread is None:
        return "-"
    mean = f"{spread.mean:.2f}".replace("-", "−" if sign == "±" else "$-$")
    return mean if spread.error is None else f"{mean} {sign} {spread.deviation:.2f} ({spread.error:.2f})"


def _escaped(text: str) -> str:
    # A name may come from somebody else, and LaTeX can read files.
    return re.sub(r"([_&%#${}])", r"\\\1", re.sub(r"[\\^~]", " ", text))
