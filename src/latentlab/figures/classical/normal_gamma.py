"""The Normal-Gamma model: q beside the exact posterior, and the ELBO below the log evidence."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.distributions import Gamma, Normal

from latentlab.classical.normal_gamma import NormalGammaInference
from latentlab.figures.classical.callback import Drawing, FigureCallback
from latentlab.figures.classical.panels import (
    BLUE,
    EXACT,
    ORANGE,
    density_levels,
    exact_line,
    label,
    panels,
    trace,
)

GRID = 240


class NormalGammaFigures(FigureCallback):
    """Draws posterior.png.

    Args:
        every_n_epochs: the number of training epochs between two figures.
    """

    def draw(self, trainer: Trainer, model: nn.Module) -> Drawing:
        """Contours of both posteriors, and the ELBO."""
        assert isinstance(model, NormalGammaInference)
        figure, (left, right) = panels(2, 4.8, 4.2)
        draw_contours(left, model)
        trace(right, model.history.values["elbo"][1:], name="ELBO", first=1)
        exact_line(right, float(model.prior.log_evidence(model.data)), "log evidence")
        right.legend(frameon=False, fontsize=9)
        right.ticklabel_format(axis="y", useOffset=False)
        label(right, "ELBO after each sweep", "sweep", "nats")
        return Drawing({"posterior": figure})


def log_densities(model: NormalGammaInference, mu: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """log q and the exact log posterior at mu and tau, (*)."""
    m, precision, a, b = model.q()
    log_q = Normal(m, precision**-0.5).log_prob(mu) + Gamma(a, b).log_prob(tau)
    return log_q, model.exact().log_prob(mu, tau)


def _range(means: list[Tensor], variances: list[Tensor]) -> Tensor:
    """A grid that holds four standard deviations around each mean."""
    mean, sd = torch.stack(means), torch.stack(variances).sqrt()
    low, high = (mean - 4 * sd).min(), (mean + 4 * sd).max()
    return torch.linspace(float(low), float(high), GRID, dtype=torch.float64)


def draw_contours(axes: Axes, model: NormalGammaInference) -> None:
    """The regions that hold 25, 50, 75 and 95 % of q and of the exact posterior."""
    exact, q = model.exact().moments(), model.moments()
    # q's scale for mu: the exact variance may be infinite.
    mus = _range([exact.mean_mu, q.mean_mu], [q.var_mu, q.var_mu])
    taus = _range([exact.mean_tau, q.mean_tau], [exact.var_tau, q.var_tau]).clamp(min=1e-6)
    mu, tau = torch.meshgrid(mus, taus, indexing="xy")
    styles: list[dict[str, Any]] = [
        {"colors": BLUE, "linewidths": 1.5},
        {"colors": EXACT, "linewidths": 1.2, "linestyles": "--"},
    ]
    for log_density, style in zip(log_densities(model, mu, tau), styles, strict=True):
        density = np.asarray(log_density.exp())
        axes.contour(mu.numpy(), tau.numpy(), density, levels=np.unique(density_levels(density)), **style)
    axes.plot(float(exact.mean_mu), float(exact.mean_tau), "+", color=ORANGE, ms=9, mew=1.8)
    handles = [
        Line2D([], [], color=BLUE, label=r"$q(\mu)\,q(\tau)$"),
        Line2D([], [], color=EXACT, ls="--", label="exact posterior"),
        Line2D([], [], color=ORANGE, marker="+", ls="", ms=9, mew=1.8, label="exact means"),
    ]
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="upper right")
    label(axes, "regions of 25, 50, 75 and 95 %", r"$\mu$", r"$\tau$")
