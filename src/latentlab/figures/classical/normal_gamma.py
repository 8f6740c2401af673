"""Figures of the Normal-Gamma model: its factorised posterior, and the path of black-box inference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import Gamma, Normal

from latentlab.classical.bbvi import NAMES, BBVINormalGamma
from latentlab.classical.normal_gamma import NormalGammaInference, NormalGammaModel
from latentlab.figures.classical.axes import (
    BLUE,
    EXACT,
    ORANGE,
    colour,
    curve,
    density_levels,
    exact_line,
    label,
    row,
)
from latentlab.figures.drawing import Data, figure

GRID = 240
SYMBOLS = ("$m$", r"$\log s$", r"$\log a$", r"$\log b$")


@figure
def posterior(model: NormalGammaInference, data: Data) -> Figure:
    """Draw contours of q and of the exact posterior."""
    drawn, (axes,) = row(1, 4.8, 4.2)
    draw_contours(axes, model)
    return drawn


@figure
def posterior_and_elbo(model: NormalGammaInference, data: Data) -> Figure:
    """Draw contours of q and of the exact posterior, and the ELBO below the log evidence."""
    drawn, (left, right) = row(2, 4.8, 4.2)
    draw_contours(left, model)
    curve(right, model.history.values["elbo"][1:], name="ELBO", first=1)
    exact_line(right, float(model.prior.log_evidence(model.data)), "log evidence")
    right.legend(frameon=False, fontsize=9)
    right.ticklabel_format(axis="y", useOffset=False)
    label(right, "ELBO after each sweep", "sweep", "nats")
    return drawn


@figure
def path(model: NormalGammaModel, data: Data) -> Figure:
    """Draw ELBO, E[mu] and E[tau] by iteration with their exact values."""
    drawn, axes = row(3, 4.0, 3.6)
    values, exact = model.history.values, model.exact().moments()
    evidence = float(model.prior.log_evidence(model.data))
    draw_estimate(axes[0], values["elbo"], evidence, "log evidence")
    draw_estimate(axes[1], values["mean_mu"], float(exact.mean_mu))
    draw_estimate(axes[2], values["mean_tau"], float(exact.mean_tau))
    label(axes[0], "ELBO", "iteration", "nats")
    label(axes[1], r"$E_q[\mu]$", "iteration", "")
    label(axes[2], r"$E_q[\tau]$", "iteration", "")
    late = min(values["elbo"][len(values["elbo"]) // 10 :])  # the first iterations are far below
    axes[0].set_ylim(late - 0.5, evidence + 0.1 * (evidence - late) + 0.1)
    return drawn


@figure
def variance(model: BBVINormalGamma, data: Data, window: PositiveInt = 50) -> Figure:
    """Draw the variance of each component of the gradient, averaged over `window` iterations."""
    drawn, (axes,) = row(1, 5.6, 4.0)
    for index, (name, symbol) in enumerate(zip(NAMES, SYMBOLS, strict=True)):
        smoothed = moving_average(model.history.values[f"variance_{name}"][1:], window)
        axes.semilogy(smoothed, color=colour(index), lw=1.3, label=symbol)
    axes.legend(frameon=False, fontsize=9, ncols=2)
    label(axes, f"variance of the gradient, means of {window} iterations", "iteration", "variance")
    return drawn


def draw_estimate(axes: Axes, values: Sequence[float], exact: float, name: str = "exact") -> None:
    """Draw an estimate by iteration and its exact value."""
    curve(axes, values, width=0.9)
    exact_line(axes, exact, name)
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def moving_average(values: Sequence[float], window: int) -> np.ndarray:
    """The mean over each `window` values in a row."""
    size = min(window, len(values))
    return np.convolve(values, np.ones(size) / size, "valid")


def draw_contours(axes: Axes, model: NormalGammaInference) -> None:
    """Draw the regions that hold 25, 50, 75 and 95 % of q and of the exact posterior."""
    mu, tau = grid(model)
    log_q, log_exact = log_densities(model, mu, tau)
    contour(axes, mu, tau, log_q, colors=BLUE, linewidths=1.5)
    contour(axes, mu, tau, log_exact, colors=EXACT, linewidths=1.2, linestyles="--")
    means = model.exact().moments()
    axes.plot(float(means.mean_mu), float(means.mean_tau), "+", color=ORANGE, ms=9, mew=1.8)
    handles = [
        Line2D([], [], color=BLUE, label=r"$q(\mu)\,q(\tau)$"),
        Line2D([], [], color=EXACT, ls="--", label="exact posterior"),
        Line2D([], [], color=ORANGE, marker="+", ls="", ms=9, mew=1.8, label="exact means"),
    ]
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="upper right")
    label(axes, "regions of 25, 50, 75 and 95 %", r"$\mu$", r"$\tau$")


def grid(model: NormalGammaInference) -> tuple[Tensor, ...]:
    """Values of mu and tau around both posteriors, each (GRID, GRID)."""
    exact, q = model.exact().moments(), model.moments()
    # The scale of q for mu, because the exact variance may be infinite.
    mu = _range([exact.mean_mu, q.mean_mu], [q.var_mu, q.var_mu])
    tau = _range([exact.mean_tau, q.mean_tau], [exact.var_tau, q.var_tau]).clamp(min=1e-6)
    return torch.meshgrid(mu, tau, indexing="xy")


def _range(means: list[Tensor], variances: list[Tensor]) -> Tensor:
    mean, sd = torch.stack(means), torch.stack(variances).sqrt()
    low, high = (mean - 4 * sd).min(), (mean + 4 * sd).max()
    return torch.linspace(float(low), float(high), GRID, dtype=torch.float64)


def log_densities(model: NormalGammaInference, mu: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """log q and the exact log posterior at mu and tau, (*)."""
    m, precision, a, b = model.q()
    log_q = Normal(m, precision**-0.5).log_prob(mu) + Gamma(a, b).log_prob(tau)
    return log_q, model.exact().log_prob(mu, tau)


def contour(axes: Axes, mu: Tensor, tau: Tensor, log_density: Tensor, **style: Any) -> None:
    """Draw the outlines of a density's regions."""
    density = np.asarray(log_density.exp())
    axes.contour(mu.numpy(), tau.numpy(), density, levels=np.unique(density_levels(density)), **style)
