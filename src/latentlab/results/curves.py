"""The learning curves of runs with a part of their protocol's budget, beside the published end points."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from latentlab.figures.drawing import Figure, plain
from latentlab.results.entries import Entry
from latentlab.results.page import Line

# The sign that turns a metric into a bound on log p(x).
SIGNS = {"test/elbo": 1.0, "test/nll": -1.0}


def curves(found: Sequence[Line]) -> Figure | None:
    """Draw the first run of each line with a part of the budget, None if there is none with a curve.

    The axis of epochs is logarithmic and ends at the protocol's budget. A star is the published figure, as a bound.
    """
    drawn = [line for line in found if not line.whole and line.entries[0].curve is not None]
    if not drawn:
        return None
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.add_subplot()
    ends = [value for line in drawn for value in _draw(axes, line)]
    axes.set_xscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("bound, nats per example")
    margin = max(max(ends) - min(ends), 1.0)
    axes.set_ylim(min(ends) - 1.5 * margin, max(ends) + 0.3 * margin)
    axes.grid(alpha=0.25, linewidth=0.5)
    plain(axes)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=1)
    return figure


def _draw(axes: Axes, line: Line) -> list[float]:
    """Draw a curve and its published end point, and return the values at their ends."""
    entry, row = line.entries[0], line.protocol.row
    assert entry.curve is not None
    epochs, values = zip(*entry.curve.values.items(), strict=True)
    (curve,) = axes.plot(epochs, values, label=f"{row.model}: {entry.curve.metric}", linewidth=1.2)
    if row.published is None or row.metric not in SIGNS:
        return [values[-1]]
    end, last = SIGNS[row.metric] * row.published, full_epochs(entry)
    axes.axhline(end, color=curve.get_color(), linestyle=":", linewidth=0.8)
    axes.plot([last], [end], "*", color=curve.get_color(), markersize=9, clip_on=False)
    return [values[-1], end]


def full_epochs(entry: Entry) -> float:
    """Return the protocol's budget in epochs."""
    assert entry.curve is not None
    budget = entry.budget
    return (
        budget.full
        if budget.unit == "epochs"
        else max(entry.curve.values) * budget.full / max(budget.used, 1)
    )
