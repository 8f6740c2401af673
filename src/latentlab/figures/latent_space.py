"""Scatter plots of latents z ~ q(z|x), coloured by label."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from pydantic import PositiveInt
from torch import Tensor

from latentlab.figures.drawing import Data, Figure, Table, TabledFigure, batches, figure, plain, spread_over
from latentlab.models.base import GenerativeModel
from latentlab.models.hierarchy import Hierarchy

NO_LABEL = -1
# A legend of more labels would leave no place for the points.
MOST_LABELS = 64
GREY = (0.55, 0.55, 0.55, 1.0)
Colour = tuple[float, float, float, float]


@figure
def latents(model: GenerativeModel, data: Data, max_points: PositiveInt = 10_000) -> TabledFigure:
    """Draw z ~ q(z|x), or its first two principal components if there are more than two latents.

    A single latent is drawn as histograms.

    Args:
        model: the model.
        data: the images and labels.
        max_points: the largest number of points, chosen at random from more.
    """
    zs, labels = zip(
        *((model.encode(model.observe(b)).flatten(1).cpu(), b.y.cpu()) for b in batches(model, data)),
        strict=True,
    )
    z, y = torch.cat(zs), torch.cat(labels)
    order = torch.randperm(len(z))[:max_points]  # a random order, so that no class hides the others
    points, names = project(z[order])
    rows = [[*point, label] for point, label in zip(points.tolist(), y[order].tolist(), strict=True)]
    drawn = TabledFigure({"latents": Table([*names, "label"], rows)}, figsize=(6.2, 5.2))
    axes = drawn.add_subplot()
    scatter(axes, points, y[order], names)
    axes.set_title("z ~ q(z|x), test set", fontsize=10)
    legend(drawn, y[order])
    return drawn


@figure
def latents_layers(
    model: Hierarchy, data: Data, max_points: PositiveInt = 10_000, max_layers: PositiveInt = 6
) -> Figure:
    """Draw z_l ~ q of each layer on its own panel, by the first two principal components.

    Args:
        model: the hierarchy.
        data: the images and labels.
        max_points: the largest number of points, chosen at random from more.
        max_layers: the largest number of panels. If there are more layers, some are left out.
    """
    chosen = spread_over(len(model.z_shapes), max_layers)
    zs, y = layers_of(model, data, chosen)
    order = torch.randperm(len(y))[:max_points]  # a random order, so that no class hides the others
    return panels([z[order] for z in zs], y[order], [layer + 1 for layer in chosen])


def layers_of(model: Hierarchy, data: Data, chosen: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """Draw the chosen layers for all data, flat, each (N, D), and return them with the labels (N,), on the CPU."""
    drawn, labels = [], []
    for batch in batches(model, data):
        zs = model(model.observe(batch)).z
        drawn.append([zs[layer][0].flatten(1).cpu() for layer in chosen])
        labels.append(batch.y.cpu())
    return [torch.cat(layer) for layer in zip(*drawn, strict=True)], torch.cat(labels)


def panels(zs: Sequence[Tensor], labels: Tensor, numbers: Sequence[int]) -> Figure:
    """Draw layers (N, D) with these numbers side by side, at most three in a row."""
    columns = min(len(zs), 3)
    rows = -(-len(zs) // columns)
    drawn = Figure(figsize=(4.2 * columns + 0.8, 4.0 * rows + 0.4))
    places = drawn.subplots(rows, columns, squeeze=False).flat
    for axes, z, number in zip(places, zs, numbers, strict=False):
        points, names = project(z)
        scatter(axes, points, labels, names)
        axes.set_title(f"$z_{{{number}}}$: {z.shape[1]} latents", fontsize=10)
    for axes in drawn.axes[len(zs) :]:
        axes.remove()
    drawn.suptitle("draws of each layer given the test images", fontsize=10)
    legend(drawn, labels)
    return drawn


def project(z: Tensor) -> tuple[Tensor, list[str]]:
    """Return at most two coordinates of z (N, D) and the names of the axes."""
    if z.shape[1] <= 2:
        return z, [f"z_{i + 1}" for i in range(z.shape[1])]
    points, explained = principal_components(z)
    return points, [f"component {i + 1} ({100 * share:.1f} %)" for i, share in enumerate(explained.tolist())]


def principal_components(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first two principal components of z (N, D), (N, 2), and their shares of the variance, (2,)."""
    centred = z.double() - z.double().mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, [-1, -2]]
    # The sign of a component is arbitrary. A fixed one keeps figures from flipping between epochs.
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return (centred @ (axes * signs)).float(), variances[[-1, -2]] / variances.sum().clamp(min=1e-300)


def scatter(axes: Axes, points: Tensor, labels: Tensor, names: Sequence[str]) -> None:
    """Draw points (N, 2) by label, or histograms of points (N, 1)."""
    [_histograms, _points][points.shape[1] - 1](axes, points, labels)
    x_name, y_name = [*names, "density"][:2]
    axes.set_xlabel(_in_maths(x_name))
    axes.set_ylabel(_in_maths(y_name))
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    plain(axes)


def legend(drawn: Figure, labels: Tensor) -> None:
    """Add the labels' colours at the right edge if there are several labels, and at most 64."""
    number = len(labels.unique())
    if 1 < number <= MOST_LABELS:
        drawn.legend(
            *drawn.axes[0].get_legend_handles_labels(),
            loc="outside right center",
            markerscale=3,
            frameon=False,
            ncols=1 + number // 16,
        )


def palette(labels: Tensor) -> dict[int, Colour]:
    """Return a colour for each label that occurs; a missing label, -1, is grey."""
    present = labels.unique().tolist()
    return {label: _colour(label, max(present)) for label in present}


def _points(axes: Axes, points: Tensor, labels: Tensor) -> None:
    # One call keeps the random order of the points. Empty calls make the legend.
    colours = palette(labels)
    x, y = points[:, 0].numpy(), points[:, 1].numpy()
    axes.scatter(x, y, s=5, c=[colours[label] for label in labels.tolist()], alpha=0.7, linewidths=0)
    for label, colour in colours.items():
        axes.scatter([], [], s=8, color=colour, label=_name(label))
        if 1 < len(colours) <= 10 and label != NO_LABEL:
            _write(axes, points[labels == label].median(0).values, str(label))


def _write(axes: Axes, point: Tensor, text: str) -> None:
    # With the digits written at their medians, a print without colours is readable too.
    outline = [withStroke(linewidth=2.5, foreground="white")]
    x, y = point.tolist()
    axes.text(x, y, text, ha="center", va="center", fontweight="bold", path_effects=outline)


def _histograms(axes: Axes, points: Tensor, labels: Tensor) -> None:
    edges = torch.linspace(points.min().item(), points.max().item() + 1e-6, 61).tolist()
    style: dict[str, Any] = {"bins": edges, "density": True, "histtype": "step", "linewidth": 1.4}
    for label, colour in palette(labels).items():
        axes.hist(points[labels == label, 0].numpy(), color=colour, label=_name(label), **style)


def _colour(label: int, largest: int) -> Colour:
    if label == NO_LABEL:
        return GREY
    return colormaps["tab10"](label) if largest < 10 else colormaps["turbo"](label / largest)


def _name(label: int) -> str:
    return "no label" if label == NO_LABEL else str(label)


def _in_maths(name: str) -> str:
    return f"${name}$" if name.startswith("z_") else name
