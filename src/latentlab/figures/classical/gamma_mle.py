"""The figure of the Gamma distribution: gradient and natural gradient on the likelihood."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from latentlab.classical.gamma_mle import PATHS, GammaMLE, log_likelihood
from latentlab.figures.classical.axes import BLUE, ORANGE, label, row
from latentlab.figures.drawing import Data, figure

STYLES = dict(zip(PATHS, ((BLUE, "gradient"), (ORANGE, "natural gradient")), strict=True))
# Nats per example below the maximum.
LEVELS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)


@figure
def paths(model: GammaMLE, data: Data) -> Figure:
    """Draw both paths on contours of the log-likelihood, and their distances from the maximum."""
    drawn, (left, right) = row(2, 5.0, 4.3)
    draw_contours(left, model)
    draw_paths(left, model)
    draw_errors(right, model)
    return drawn


def draw_contours(axes: Axes, model: GammaMLE) -> None:
    """Draw contours of the log-likelihood around both paths."""
    a, b = grid(model)
    maximum = log_likelihood(model.optimum(), model.mean, model.mean_log)
    gaps = maximum - log_likelihood(torch.stack([a, b], dim=-1), model.mean, model.mean_log)
    lines = axes.contour(a.numpy(), b.numpy(), gaps.numpy(), levels=LEVELS, colors="0.75", linewidths=0.8)
    axes.clabel(lines, [level for level in LEVELS if level >= 0.1], fontsize=7, fmt="%g")


def grid(model: GammaMLE) -> tuple[Tensor, ...]:
    """Values of a and b around both paths, each (200, 200)."""
    optimum, visited = model.optimum(), torch.cat([model.path(name) for name in PATHS])
    low, high = visited.amin(0).minimum(optimum) * 0.02, visited.amax(0).maximum(optimum) * 1.15
    ends = zip(low.tolist(), high.tolist(), strict=True)
    a, b = (torch.linspace(start, end, 200, dtype=torch.float64) for start, end in ends)
    return torch.meshgrid(a, b, indexing="xy")


def draw_paths(axes: Axes, model: GammaMLE) -> None:
    """Draw both paths, with points at iterations 1, 2, 4, 8 and so on."""
    for name, (colour, title) in STYLES.items():
        path = model.path(name)
        axes.plot(*path.T.numpy(), color=colour, lw=1.4, label=title)
        powers = [0, *(2**i for i in range(len(path).bit_length()) if 2**i < len(path))]
        axes.plot(*path[powers].T.numpy(), "o", color=colour, ms=3.2)
    axes.plot(*model.first.numpy(), "s", color="black", ms=5, label="start")
    axes.plot(*model.optimum().numpy(), "*", color="black", ms=10, label="maximum likelihood")
    axes.legend(frameon=False, fontsize=9)
    label(axes, "points at iterations 1, 2, 4, 8, ...; contours: nats below the maximum", "shape a", "rate b")


def draw_errors(axes: Axes, model: GammaMLE) -> None:
    """Draw the larger relative error of a and b by iteration."""
    near = model.iterations_to(0.01)
    for name, (colour, title) in STYLES.items():
        error = (model.path(name) / model.optimum() - 1).abs().amax(1).clamp(min=1e-12)
        found = f", 1 % at {near[name]}" if name in near else ""
        iterations = np.arange(1, len(error))
        axes.loglog(iterations, error[1:].numpy(), color=colour, lw=1.6, label=f"{title}{found}")
    axes.axhline(0.01, color="0.25", lw=1, ls="--")
    axes.set_ylim(bottom=1e-6)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    label(axes, "distance from the maximum", "iteration", "largest relative error of a and b")
