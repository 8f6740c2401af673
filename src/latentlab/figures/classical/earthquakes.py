"""Figures of the earthquakes: a map of the clusters, the posterior of the rates, and the ELBO of each start."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import Gamma

from latentlab.classical.base import Source
from latentlab.classical.earthquakes import CAVIEarthquakes
from latentlab.figures.classical.axes import BLUE, EXACT, colour, ellipse, label, row
from latentlab.figures.drawing import figure

FLOOR = 1e-10
WHITE = {"fc": "white", "ec": "none", "pad": 1.5}


@figure
def cluster_map(model: CAVIEarthquakes, data: Source, max_points: PositiveInt = 5000) -> Figure:
    """Draw the earthquakes in the colours of their clusters, and ellipses that hold 95 % of each cluster.

    Args:
        model: the inference.
        data: the catalogue. Its true centres are drawn if they are known.
        max_points: the largest number of earthquakes, chosen at random from more.
    """
    drawn, (axes,) = row(1, 6.4, 5.2)
    shown = torch.randperm(len(data.x))[:max_points]
    draw_earthquakes(axes, data.x[shown], model.assignments().argmax(-1)[shown], float(data.x[:, 2].max()))
    draw_clusters(axes, model)
    if data.truth:
        axes.plot(*data.truth["mu"].T.numpy(), "x", color="black", ms=7, mew=1.6, label="true centres")
        axes.legend(fontsize=9, framealpha=0.9, edgecolor="none")
    axes.set_aspect("equal", "datalim")
    share = f", {len(shown):,} of {len(data.x):,} shown" if len(shown) < len(data.x) else ""
    label(axes, f"earthquakes by cluster, 95 % ellipses (area: strength{share})", "x", "y")
    return drawn


@figure
def rates(model: CAVIEarthquakes, data: Source) -> Figure:
    """Draw the posterior of each rate, and the true rates if they are known."""
    drawn, (axes,) = row(1, 6.4, 4.0)
    q = model.best()
    for k, (a, b) in enumerate(zip(q.a, q.b, strict=True)):
        draw_rate(axes, k, a, b)
    for rate in data.truth.get("lambda", torch.zeros(0)).tolist():
        axes.axvline(rate, color=EXACT, lw=1.1, ls="--")
    axes.set_ylim(0, 1.18)
    known = ", truth dashed" if data.truth else ""
    label(axes, f"posterior of the rates{known}", r"strength $\lambda_k$", "density, peak = 1")
    return drawn


@figure
def elbo(model: CAVIEarthquakes, data: Source) -> Figure:
    """Draw the ELBO of each start, and its distance from the best start's last ELBO."""
    drawn, axes = row(2, 4.4, 3.9)
    starts = [bounds[1:] for name, bounds in model.history.values.items() if name != "elbo"]
    best = max(starts, key=lambda bounds: bounds[-1])
    for bounds in starts:
        draw_bounds(axes, bounds, best[-1], color="0.7", lw=0.9)
    draw_bounds(axes, best, best[-1], color=BLUE, lw=1.8)
    axes[1].set_ylim(bottom=FLOOR * 2)
    for each in axes:
        each.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    label(axes[0], "ELBO of each start, the best in blue", "iteration", "ELBO in nats")
    label(axes[1], "below the best start's last ELBO", "iteration", "nats")
    axes[0].ticklabel_format(axis="y", useOffset=False)
    return drawn


def draw_earthquakes(axes: Axes, x: Tensor, z: Tensor, strongest: float) -> None:
    """Draw points at the locations of x (N, 3), with an area by strength and the colour of the cluster z (N,)."""
    sizes = 2 + 22 * x[:, 2] / max(strongest, 1)
    colours = [colour(k) for k in z.tolist()]
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=sizes.numpy(), c=colours, alpha=0.5, linewidths=0)


def draw_clusters(axes: Axes, model: CAVIEarthquakes) -> None:
    """Draw the ellipse and the number of each cluster."""
    q, tau = model.best(), float(model.h.tau)
    for k, (m, rho) in enumerate(zip(q.m, q.rho, strict=True)):
        cov = (1 / tau + 1 / rho) * torch.eye(2, dtype=m.dtype)
        ellipse(axes, m, cov, "white", width=3)
        ellipse(axes, m, cov, colour(k), width=1.6)
        above = (float(m[0]), float(m[1]) + 2.7 * tau**-0.5)
        axes.annotate(str(k + 1), above, ha="center", va="bottom", fontsize=10, weight="bold")


def draw_rate(axes: Axes, k: int, a: Tensor, b: Tensor) -> None:
    """Draw Gamma(a, b), scaled to height 1 because the widths differ by orders of magnitude."""
    mean, sd = float(a / b), float(a.sqrt() / b)
    rate = torch.linspace(max(mean - 5 * sd, 1e-9), mean + 5 * sd, 400, dtype=torch.float64)
    log_density = Gamma(a, b).log_prob(rate)
    height = (log_density - log_density.max()).exp()
    axes.fill_between(rate.numpy(), height.numpy(), color=colour(k), alpha=0.35, lw=0)
    axes.plot(rate.numpy(), height.numpy(), color=colour(k), lw=1.4)
    axes.annotate(str(k + 1), (mean, 1.05), ha="center", fontsize=10, weight="bold", bbox=WHITE, zorder=4)


def draw_bounds(axes: Sequence[Axes], bounds: Sequence[float], best: float, **style: Any) -> None:
    """Draw the ELBO of a start on the left, and its distance from `best` on the right."""
    iterations = range(1, len(bounds) + 1)
    axes[0].plot(iterations, bounds, **style)
    axes[1].semilogy(iterations, [max(best - bound, FLOOR) for bound in bounds], **style)
