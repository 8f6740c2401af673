"""Axes, lines and ellipses that the classical figures share."""

from collections.abc import Sequence
from math import atan2, degrees, log

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from torch import Tensor

EXACT = "0.25"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#e69f00", "#56b4e9", "#8c510a", "#666666", "#b2df8a", "#6a3d9a")
# The radius that holds 95 % of a two-dimensional normal, in standard deviations.
RADIUS_95 = (-2 * log(0.05)) ** 0.5


def panels(columns: int, width: float = 4.4, height: float = 3.9) -> tuple[Figure, Sequence[Axes]]:
    """A figure of panels side by side."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, columns, squeeze=False)[0]
    for each in axes:
        each.grid(alpha=0.25, linewidth=0.5)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """The title of a panel and the names of its axes."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def trace(
    axes: Axes,
    values: Sequence[float],
    colour: str = BLUE,
    name: str = "",
    width: float = 1.3,
    first: int = 0,
) -> None:
    """A line by iteration, from the number `first`."""
    marker = "o" if len(values) <= 40 else None
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    places = range(first, first + len(values))
    axes.plot(places, values, color=colour, label=name or None, lw=width, marker=marker, ms=3)


def exact_line(axes: Axes, value: float, name: str) -> None:
    """A dashed horizontal line at an exact value."""
    axes.axhline(value, color=EXACT, lw=1, ls="--", label=name)


def ellipse(axes: Axes, mean: Tensor, cov: Tensor, colour: str, **style: object) -> None:
    """The outline that holds 95 % of a two-dimensional normal, mean (2,) and covariance (2, 2)."""
    values, vectors = torch.linalg.eigh(cov.cpu())
    width, height = (2 * RADIUS_95 * values.sqrt()).tolist()
    angle = degrees(atan2(float(vectors[1, 0]), float(vectors[0, 0])))
    outline = Ellipse(
        (float(mean[0]), float(mean[1])), width, height, angle=angle, fill=False, ec=colour, **style
    )
    axes.add_patch(outline)


def density_levels(density: np.ndarray) -> list[float]:
    """The levels that hold 95, 75, 50 and 25 % of a density on a grid of equal cells, ascending."""
    ordered = np.sort(density.ravel())[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    return [float(ordered[np.searchsorted(held, share)]) for share in (0.95, 0.75, 0.5, 0.25)]
