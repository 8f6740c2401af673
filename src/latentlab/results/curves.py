"""The learning curves of runs with a part of their protocol's budget, with the published end points."""

from collections.abc import Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from latentlab.figures.drawing import Figure, plain
from latentlab.results.entries import Entry
from latentlab.results.page import Line, ours, published

WIDTH = 100  # characters in a line of the legend
# The sign that turns a metric into a bound on log p(x).
SIGNS = {"test/elbo": 1.0, "test/nll": -1.0}


def curves(found: Sequence[Line]) -> Figure | None:
    """Draw the first run of each line with a part of the budget, None if there is none with a curve.

    The axis of epochs is logarithmic and ends at the protocol's budget. A circle is the result of the run, and a star
    the published figure, both as a bound.
    """
    drawn = [line for line in found if not line.whole and line.entries[0].curve is not None]
    if not drawn:
        return None
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.add_subplot()
    ends = [value for line in drawn for value in _draw(axes, line)]
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("epoch")
    axes.set_ylabel("bound, nats per example")
    margin = max(max(ends) - min(ends), 1.0)
    axes.set_ylim(min(ends) - margin, max(ends) + 0.2 * margin)
    axes.grid(alpha=0.25, linewidth=0.5)
    plain(axes)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, line: Line) -> list[float]:
    """Draw a curve, its result and its published end point, and return the values at their ends."""
    entry, row = line.entries[0], line.protocol.row
    assert entry.curve is not None
    epochs, values = zip(*entry.curve.values.items(), strict=True)
    label = f"{row.model}: {entry.curve.metric}, ○ {row.metric} {ours(line)}, ★ {published(line.protocol)}"
    (curve,) = axes.plot(epochs, values, linewidth=1.2, label=fill(label, WIDTH))
    sign, colour = SIGNS.get(row.metric), curve.get_color()
    ends = [values[-1]]
    if sign is not None:
        ends.append(sign * entry.value)
        axes.plot(epochs[-1:], ends[-1:], "o", color=colour, markersize=5, fillstyle="none")
    if sign is not None and row.published is not None:
        ends.append(sign * row.published)
        axes.plot([full_epochs(entry)], ends[-1:], "*", color=colour, markersize=9, clip_on=False)
        axes.axhline(ends[-1], color=colour, linestyle=":", linewidth=0.8)
    return ends


def full_epochs(entry: Entry) -> float:
    """Return the protocol's budget in epochs."""
    assert entry.curve is not None
    budget = entry.budget
    return (
        budget.full
        if budget.unit == "epochs"
        else max(entry.curve.values) * budget.full / max(budget.used, 1)
    )
