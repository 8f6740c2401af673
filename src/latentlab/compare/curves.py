"""A figure of a metric by epoch, with a line for each experiment and a band of one standard deviation over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from latentlab.compare.runs import Experiment, incomparable
from latentlab.errors import UserError
from latentlab.run.results import Spread

WIDTH = 90  # characters in a line of the legend
# A metric by epoch, from 1.
Curve = Mapping[int, float]


@dataclass(frozen=True)
class Band:
    """An experiment at the epochs that all of its runs reached."""

    label: str
    epochs: Sequence[int]
    means: Sequence[float]
    errors: Sequence[float]
    runs: int


def curves(experiments: Sequence[Experiment[Curve]], metric: str, first: int = 1) -> Figure:
    """Draw a line and a band for each experiment, with the last values in the legend.

    Args:
        experiments: the experiments.
        metric: the name of the metric.
        first: the first epoch to draw.

    Raises:
        UserError: if the runs of an experiment have no common epoch from `first` on.
    """
    figure = Figure(figsize=(6.4, 4.4))
    axes = figure.add_subplot()
    for experiment in experiments:
        _draw(axes, band(experiment, first))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{metric}, nats per example")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(fill(incomparable(experiments), WIDTH), fontsize=8, color="firebrick")
    # Below the axes, where a long legend covers no curve.
    figure.legend(
        loc="outside lower center", frameon=False, title="at the last epoch", fontsize=8, title_fontsize=8
    )
    return figure


def band(experiment: Experiment[Curve], first: int) -> Band:
    """Return means and standard deviations over the runs of an experiment.

    Raises:
        UserError: if the runs have no common epoch from `first` on.
    """
    values = [run.values for run in experiment.runs]
    epochs = sorted(epoch for epoch in set.intersection(*map(set, values)) if epoch >= first)
    if not epochs:
        raise UserError(
            f"{experiment.label}: its {len(values)} runs have no common epoch from first={first} on"
        )
    spreads = [Spread.of([each[epoch] for each in values]) for epoch in epochs]
    means, errors = [each.mean for each in spreads], [each.deviation or 0.0 for each in spreads]
    return Band(experiment.label, epochs, means, errors, len(values))


def _draw(axes: Axes, band: Band) -> None:
    spread = f" ± {band.errors[-1]:.2f} ({band.runs} seeds)" if band.runs > 1 else ""
    (line,) = axes.plot(
        band.epochs, band.means, label=fill(f"{band.label}: {band.means[-1]:.2f}{spread}", WIDTH)
    )
    low = [mean - error for mean, error in zip(band.means, band.errors, strict=True)]
    high = [mean + error for mean, error in zip(band.means, band.errors, strict=True)]
    axes.fill_between(band.epochs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    if len(band.epochs) == 1:
        line.set_marker("o")
