"""The Gamma distribution: the two paths on the contours of the likelihood, and how far they are from its maximum."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from pytorch_lightning import Trainer
from torch import nn

from latentlab.classical.gamma_mle import PATHS, GammaMLE, log_likelihood
from latentlab.figures.classical.callback import Drawing, FigureCallback
from latentlab.figures.classical.panels import BLUE, ORANGE, label, panels

STYLES = dict(zip(PATHS, ((BLUE, "gradient"), (ORANGE, "natural gradient")), strict=True))
# Nats per example below the maximum.
LEVELS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)


class GammaFigures(FigureCallback):
    """Draws paths.png.

    Args:
        every_n_epochs: the number of training epochs between two figures.
    """

    def draw(self, trainer: Trainer, model: nn.Module) -> Drawing:
        """Paths and distances."""
        assert isinstance(model, GammaMLE)
        figure, (left, right) = panels(2, 5.0, 4.3)
        draw_paths(left, model)
        draw_gaps(right, model)
        return Drawing({"paths": figure})


def draw_paths(axes: Axes, model: GammaMLE) -> None:
    """Both paths on contours of the log-likelihood."""
    optimum, places = model.optimum(), torch.cat([model.path(name) for name in PATHS])
    low, high = places.amin(0).minimum(optimum) * 0.02, places.amax(0).maximum(optimum) * 1.15
    ends = zip(low.tolist(), high.tolist(), strict=True)
    a, b = (torch.linspace(start, end, 200, dtype=torch.float64) for start, end in ends)
    grid = torch.stack(torch.meshgrid(a, b, indexing="xy"), dim=-1)
    gaps = log_likelihood(optimum, model.mean, model.mean_log) - log_likelihood(
        grid, model.mean, model.mean_log
    )
    lines = axes.contour(a.numpy(), b.numpy(), gaps.numpy(), levels=LEVELS, colors="0.75", linewidths=0.8)
    axes.clabel(lines, [level for level in LEVELS if level >= 0.1], fontsize=7, fmt="%g")
    for name, (colour, title) in STYLES.items():
        path = model.path(name)
        axes.plot(*path.T.numpy(), color=colour, lw=1.4, label=title)
        marked = path[_marks(len(path))]
        axes.plot(*marked.T.numpy(), "o", color=colour, ms=3.2)
    axes.plot(*model.first.numpy(), "s", color="black", ms=5, label="start")
    axes.plot(*optimum.numpy(), "*", color="black", ms=10, label="maximum likelihood")
    axes.legend(frameon=False, fontsize=9)
    label(axes, "points at iterations 1, 2, 4, 8, ...; contours: nats below the maximum", "shape a", "rate b")


def _marks(length: int) -> Sequence[int]:
    return [0, *(2**i for i in range(length.bit_length()) if 2**i < length)]


def draw_gaps(axes: Axes, model: GammaMLE) -> None:
    """The larger relative error of a and b by iteration, and where it stays within 1 %."""
    near = model.iterations_to(0.01)
    for name, (colour, title) in STYLES.items():
        error = (model.path(name) / model.optimum() - 1).abs().amax(1).clamp(min=1e-12)
        found = f", 1 % at {near[name]}" if name in near else ""
        axes.loglog(
            np.arange(1, len(error)), error[1:].numpy(), color=colour, lw=1.6, label=f"{title}{found}"
        )
    axes.axhline(0.01, color="0.25", lw=1, ls="--")
    axes.set_ylim(bottom=1e-6)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    label(axes, "distance from the maximum", "iteration", "largest relative error of a and b")
