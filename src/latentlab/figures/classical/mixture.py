"""Figures of a mixture of normal distributions: its clusters, and its bound by iteration."""

import torch
from matplotlib.figure import Figure
from pydantic import PositiveInt

from latentlab.classical.base import Source
from latentlab.classical.mixture import GaussianMixture
from latentlab.figures.classical.axes import BLUE, colour, ellipse, label, row
from latentlab.figures.drawing import figure


@figure
def clusters(model: GaussianMixture, data: Source, max_points: PositiveInt = 5000) -> Figure | None:
    """Draw the first two columns of points in the colours of their components, with ellipses that hold 95 % of each.

    Args:
        model: the inference.
        data: the points. Their true means are drawn if they are known.
        max_points: the largest number of points, chosen at random from more.
    """
    if model.dimensions < 2:
        return None
    drawn, (axes,) = row(1, 5.6, 5.0)
    shown = torch.randperm(len(data.x))[:max_points]
    x, z = data.x[shown, :2], model.responsibilities(data.x[shown]).argmax(1)
    axes.scatter(
        x[:, 0].numpy(), x[:, 1].numpy(), s=6, c=[colour(k) for k in z.tolist()], alpha=0.5, linewidths=0
    )
    _, means, covariances = model.parameters_of_components
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        ellipse(axes, mean[:2], covariance[:2, :2], colour(k), width=1.6)
    if "mu" in data.truth:
        axes.plot(*data.truth["mu"][:, :2].T.numpy(), "x", color="black", ms=7, mew=1.6, label="true means")
        axes.legend(fontsize=9, framealpha=0.9, edgecolor="none")
    label(axes, "points by component, 95 % ellipses", "$x_1$", "$x_2$")
    return drawn


@figure
def elbo(model: GaussianMixture, data: Source) -> Figure:
    """Draw the bound by iteration."""
    drawn, (axes,) = row(1, 5.0, 3.6)
    bounds = model.history.values["elbo"]
    axes.plot(range(len(bounds)), bounds, "o-", color=BLUE, ms=3, lw=1.4)
    axes.ticklabel_format(axis="y", useOffset=False)
    label(axes, f"{len(bounds) - 1} iterations", "iteration", "nats")
    return drawn
