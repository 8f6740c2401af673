"""The rate-distortion plane: the KL of each experiment against its negative reconstruction."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from latentlab.compare.runs import Experiment, incomparable
from latentlab.errors import UserError
from latentlab.figures.drawing import Figure
from latentlab.run.directory import RunDirectory
from latentlab.run.results import Spread, read_results

WIDTH = 100  # characters in a line of the title
SPREAD_OUT = 30  # the ratio of two rates from which on their axis is logarithmic
# The labels of points that follow each other are above and below them, so that they do not overlap.
PLACES: tuple[Mapping[str, Any], ...] = (
    {"xytext": (5, 4)},
    {"xytext": (-5, -4), "horizontalalignment": "right", "verticalalignment": "top"},
)
RATE, DISTORTION = "test/kl", "test/reconstruction"

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """An experiment in the plane, with standard deviations over its seeds."""

    label: str
    rate: Spread
    distortion: Spread


def rate_distortion(experiments: Sequence[Experiment[Results]]) -> Figure:
    r"""Draw a point for each experiment at the rate $R = E[KL(q(z|x)\,\|\,p(z))]$ and $D = -E_q[\log p(x|z)]$.

    Alemi et al. 2018, "Fixing a broken ELBO". On the dashed lines, the ELBO -D - R is the same. Means of several seeds
    have bars of one standard deviation.
    """
    points = sorted(map(point, experiments), key=lambda each: each.rate.mean)
    rates, distortions = [each.rate.mean for each in points], [each.distortion.mean for each in points]
    figure = Figure(figsize=(6.4, 4.8))
    axes = figure.add_subplot()
    if 0 < SPREAD_OUT * rates[0] < rates[-1]:
        axes.set_xscale("log")
    axes.plot(rates, distortions, color="0.75", linewidth=0.8)
    for number, text in enumerate(short([each.label for each in points])):
        _draw(axes, points[number], text, PLACES[number % 2])
    axes.margins(0.12)
    _draw_bounds(axes, [-sum(pair) for pair in zip(rates, distortions, strict=True)])
    axes.set_xlabel("rate: KL, nats per example")
    axes.set_ylabel("distortion: negative reconstruction, nats per example")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(fill(incomparable(experiments), WIDTH), fontsize=8, color="firebrick")
    return figure


def _draw(axes: Axes, point: Point, text: str, offset: Mapping[str, Any]) -> None:
    axes.errorbar(
        point.rate.mean,
        point.distortion.mean,
        xerr=point.rate.deviation,
        yerr=point.distortion.deviation,
        fmt="oC0",
        markersize=4,
        capsize=2,
    )
    place = (point.rate.mean, point.distortion.mean)
    axes.annotate(text, place, textcoords="offset points", fontsize=8, **offset)


def _draw_bounds(axes: Axes, elbos: Sequence[float]) -> None:
    # Lines of equal ELBO within the limits that the points have set.
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    rates = np.geomspace(left, right, 200) if axes.get_xscale() == "log" else np.linspace(left, right, 200)
    for elbo in MaxNLocator(4).tick_values(min(elbos), max(elbos)):
        distortions = -elbo - rates
        seen = (low < distortions) & (distortions < high)
        if seen.any():
            axes.plot(rates[seen], distortions[seen], color="0.6", linestyle="--", linewidth=0.6, zorder=0)
            start = rates[seen][0], distortions[seen][0]
            axes.annotate(
                f"ELBO {elbo:g}", start, xytext=(2, 2), textcoords="offset points", fontsize=7, color="0.5"
            )
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def read_rate(run: RunDirectory) -> Results:
    """Return the results of a run that has a rate and a distortion.

    Raises:
        UserError: for another run.
    """
    results = read_results(run.summary)
    if not {RATE, DISTORTION} <= set(results):
        raise UserError(f"its model has no {RATE} and {DISTORTION}")
    return results


def point(experiment: Experiment[Results]) -> Point:
    """Return the means and deviations of an experiment."""
    rate, reconstruction = (
        Spread.of([run.values[name] for run in experiment.runs]) for name in (RATE, DISTORTION)
    )
    distortion = Spread(reconstruction.n, -reconstruction.mean, reconstruction.deviation)
    return Point(experiment.label, rate, distortion)


def short(labels: Sequence[str]) -> list[str]:
    """Return labels without the words that all of them share, and without the groups of settings."""
    parts = [label.split(", ") for label in labels]
    shared = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    return [
        ", ".join(re.sub(r"^[\w.]+\.", "", word) for word in words if word not in shared) for words in parts
    ]
