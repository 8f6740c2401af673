"""The earthquakes: a map of the clusters, the posterior of the rates, and the ELBO of every start."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.distributions import Gamma

from latentlab.classical.earthquakes import CAVIEarthquakes, Globals
from latentlab.figures.classical.callback import Drawing, FigureCallback
from latentlab.figures.classical.panels import BLUE, COLOURS, EXACT, ellipse, label, panels

MAX_POINTS = 5000
FLOOR = 1e-10
WHITE = {"fc": "white", "ec": "none", "pad": 1.5}


class EarthquakeFigures(FigureCallback):
    """Draws map.png, rates.png and elbo.png.

    Args:
        every_n_epochs: the number of training epochs between two figures.
    """

    def draw(self, trainer: Trainer, model: nn.Module) -> Drawing:
        """The three figures; the truth is drawn where it is known."""
        source = trainer.datamodule.source  # type: ignore[attr-defined]
        assert isinstance(model, CAVIEarthquakes)
        q, tau = model.best(), float(model.h.tau)
        map_figure, (axes,) = panels(1, 6.4, 5.2)
        draw_map(axes, source.x, model.assignments().argmax(-1), q, tau)
        rates_figure, (rates_axes,) = panels(1, 6.4, 4.0)
        draw_rates(rates_axes, q, source.truth)
        draw_truth(axes, source.truth)
        elbo_figure, elbo_axes = panels(2)
        draw_bounds(elbo_axes, model.history.values)
        return Drawing({"map": map_figure, "rates": rates_figure, "elbo": elbo_figure})


def draw_map(axes: Axes, x: Tensor, z: Tensor, q: Globals, tau: float) -> None:
    """The places in the colours of their clusters, larger for stronger quakes, and 95 % ellipses of each cluster."""
    shown = torch.randperm(len(x))[:MAX_POINTS]
    colours = [COLOURS[k % len(COLOURS)] for k in z[shown].tolist()]
    sizes = 2 + 22 * x[shown, 2] / x[:, 2].max().clamp(min=1)
    axes.scatter(
        x[shown, 0].numpy(), x[shown, 1].numpy(), s=sizes.numpy(), c=colours, alpha=0.5, linewidths=0
    )
    for k, (m, rho) in enumerate(zip(q.m, q.rho, strict=True)):
        cov = (1 / tau + 1 / rho) * torch.eye(2, dtype=m.dtype)
        ellipse(axes, m, cov, "white", lw=3)
        ellipse(axes, m, cov, COLOURS[k % len(COLOURS)], lw=1.6)
        axes.annotate(
            str(k + 1),
            (float(m[0]), float(m[1]) + 2.7 * tau**-0.5),
            ha="center",
            va="bottom",
            fontsize=10,
            weight="bold",
        )
    axes.set_aspect("equal", "datalim")
    shown_of = f", {len(shown):,} of {len(x):,} shown" if len(shown) < len(x) else ""
    label(axes, f"earthquakes by cluster, 95 % ellipses (area: strength{shown_of})", "x", "y")


def draw_truth(axes: Axes, truth: dict[str, Tensor]) -> None:
    """Crosses at the true centres."""
    if truth:
        axes.plot(*truth["mu"].T.numpy(), "x", color="black", ms=7, mew=1.6, label="true centres")
        axes.legend(fontsize=9, framealpha=0.9, edgecolor="none")


def draw_rates(axes: Axes, q: Globals, truth: dict[str, Tensor]) -> None:
    """The posteriors of the rates, with the true rates as lines."""
    for k, (a, b) in enumerate(zip(q.a, q.b, strict=True)):
        mean, sd = float(a / b), float(a.sqrt() / b)
        grid = torch.linspace(max(mean - 5 * sd, 1e-9), mean + 5 * sd, 400, dtype=torch.float64)
        density = Gamma(a, b).log_prob(grid).exp()
        colour = COLOURS[k % len(COLOURS)]
        # To the same height: the widths differ by orders of magnitude.
        axes.fill_between(grid.numpy(), (density / density.max()).numpy(), color=colour, alpha=0.35, lw=0)
        axes.plot(grid.numpy(), (density / density.max()).numpy(), color=colour, lw=1.4)
        axes.annotate(str(k + 1), (mean, 1.05), ha="center", fontsize=10, weight="bold", bbox=WHITE, zorder=4)
    for rate in truth.get("lambda", torch.zeros(0)).tolist():
        axes.axvline(rate, color=EXACT, lw=1.1, ls="--")
    axes.set_ylim(0, 1.18)
    known = ", truth dashed" if truth else ""
    label(axes, f"posterior of the rates{known}", r"strength $\lambda_k$", "density, peak = 1")


def draw_bounds(axes: Sequence[Axes], values: dict[str, list[float]]) -> None:
    """The ELBO of every start by iteration, and how far each is below the best at the end."""
    starts = [bounds[1:] for name, bounds in values.items() if name != "elbo"]
    best = max(starts, key=lambda bounds: bounds[-1])
    # Drawn last, on top of those that end at the same bound.
    for bounds in sorted(starts, key=lambda bounds: bounds is best):
        style: dict[str, Any] = {"color": BLUE, "lw": 1.8} if bounds is best else {"color": "0.7", "lw": 0.9}
        iterations = range(1, len(bounds) + 1)
        axes[0].plot(iterations, bounds, **style)
        axes[1].semilogy(iterations, [max(best[-1] - bound, FLOOR) for bound in bounds], **style)
    axes[1].set_ylim(bottom=FLOOR * 2)
    for each in axes:
        each.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    label(axes[0], "ELBO of each start, the best in blue", "iteration", "ELBO in nats")
    label(axes[1], "below the best start's last ELBO", "iteration", "nats")
    axes[0].ticklabel_format(axis="y", useOffset=False)
