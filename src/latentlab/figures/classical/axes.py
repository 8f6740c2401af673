"""Axes, curves and ellipses of the classical figures."""

from collections.abc import Sequence
from math import atan2, degrees, log

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from latentlab.figures.drawing import Figure, plain

EXACT = "0.25"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#e69f00", "#56b4e9", "#8c510a", "#666666", "#b2df8a", "#6a3d9a")
# The radius of the circle that holds 95 % of a standard normal in two dimensions.
RADIUS_95 = (-2 * log(0.05)) ** 0.5


def row(columns: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure with a row of axes, each of the given size in inches."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, columns, squeeze=False)[0]
    for each in axes:
        each.grid(alpha=0.25, linewidth=0.5)
        each.set_axisbelow(True)
        plain(each)
    return figure, axes


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Set the title and the names of both axes."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def colour(index: int) -> str:
    """Return the colour of a cluster."""
    return COLOURS[index % len(COLOURS)]


def curve(
    axes: Axes,
    values: Sequence[float],
    colour: str = BLUE,
    name: str = "",
    width: float = 1.3,
    first: int = 0,
) -> None:
    """Draw values by iteration, counted from `first`."""
    marker = "o" if len(values) <= 40 else None
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    iterations = range(first, first + len(values))
    axes.plot(iterations, values, color=colour, label=name or None, lw=width, marker=marker, ms=3)


def exact_line(axes: Axes, value: float, name: str) -> None:
    """Draw a dashed horizontal line at an exact value."""
    axes.axhline(value, color=EXACT, lw=1, ls="--", label=name)


def ellipse(axes: Axes, mean: Tensor, cov: Tensor, colour: str, width: float = 1.8, name: str = "") -> None:
    """Outline the region that holds 95 % of a two-dimensional normal, mean (2,) and covariance (2, 2)."""
    values, vectors = torch.linalg.eigh(cov.cpu())
    major, minor = (2 * RADIUS_95 * values.sqrt()).tolist()
    angle = degrees(atan2(float(vectors[1, 0]), float(vectors[0, 0])))
    centre = float(mean[0]), float(mean[1])
    axes.add_patch(Ellipse(centre, major, minor, angle=angle, fill=False, ec=colour, lw=width))
    if name:
        axes.plot([], [], color=colour, lw=width, label=name)  # a line in the legend


def density_levels(density: np.ndarray) -> list[float]:
    """The levels that hold 95, 75, 50 and 25 % of a density on a grid of equal cells, ascending."""
    ordered = np.sort(density.ravel())[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    return [float(ordered[np.searchsorted(held, share)]) for share in (0.95, 0.75, 0.5, 0.25)]
