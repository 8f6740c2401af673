"""The latent plot: draws from q(z|x) of the test set, coloured by label."""

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from pydantic import PositiveInt
from pytorch_lightning import Trainer
from torch import Tensor

from latentlab.figures.data import batches
from latentlab.figures.drawing import Drawing, FigureCallback, Table
from latentlab.models.base import GenerativeModel

NO_LABEL = -1
MATHS = {"z_1": "$z_1$", "z_2": "$z_2$"}
GREY = (0.55, 0.55, 0.55, 1.0)
Colour = tuple[float, float, float, float]


class Latents(FigureCallback):
    """Draws latents.png: z ~ q(z|x), its two principal components if there are more than two latents.

    Args:
        every_n_epochs: the number of training epochs between two figures.
        max_points: the largest number of test examples to draw, chosen at random from more.
    """

    def __init__(self, every_n_epochs: PositiveInt = 10, max_points: PositiveInt = 10_000) -> None:
        super().__init__(every_n_epochs)
        self.max_points = max_points

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The scatter plot, or histograms of a single latent, and the points as a table."""
        z, y = encode(trainer, model)
        # In random order, so that no class hides the others.
        order = torch.randperm(len(z))[: self.max_points]
        points, names = project(z[order])
        labels = y[order]
        rows = [[*point, label] for point, label in zip(points.tolist(), labels.tolist(), strict=True)]
        return Drawing({"latents": plot(points, labels, names)}, {"latents": Table([*names, "label"], rows)})


def encode(trainer: Trainer, model: GenerativeModel) -> tuple[Tensor, Tensor]:
    """z ~ q(z|x) (N, D) and labels (N,) of the whole test set, on the CPU."""
    drawn = [(model.encode(x).flatten(1).cpu(), y) for x, y in batches(trainer)]
    zs, ys = zip(*drawn, strict=True)
    return torch.cat(zs), torch.cat(ys)


def project(z: Tensor) -> tuple[Tensor, list[str]]:
    """At most two coordinates of z (N, D) and the names of the axes."""
    if z.shape[1] <= 2:
        return z, [f"z_{i + 1}" for i in range(z.shape[1])]
    points, explained = principal_components(z)
    return points, [f"component {i + 1} ({100 * share:.1f} %)" for i, share in enumerate(explained.tolist())]


def principal_components(z: Tensor) -> tuple[Tensor, Tensor]:
    """The first two principal components of z (N, D), (N, 2), and their shares of the variance, (2,)."""
    centred = z.double() - z.double().mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, [-1, -2]]
    # The sign of an axis is arbitrary: fix it, so that frames do not flip from epoch to epoch.
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return (centred @ (axes * signs)).float(), variances[[-1, -2]] / variances.sum().clamp(min=1e-300)


def plot(points: Tensor, labels: Tensor, names: list[str]) -> Figure:
    """A figure of the points (N, 1) or (N, 2) by label, with a legend beside it."""
    figure = Figure(figsize=(6.2, 5.2))
    axes = figure.add_subplot()
    panel(axes, points, labels, names)
    axes.set_title("z ~ q(z|x), test set", fontsize=10)
    legend(figure, labels)
    return figure


def panel(axes: Axes, points: Tensor, labels: Tensor, names: list[str]) -> None:
    """The points (N, 1) or (N, 2) by label on one panel."""
    [_histograms, _scatter][points.shape[1] - 1](axes, points, labels)
    x_name, y_name = [*names, "density"][:2]
    axes.set_xlabel(MATHS.get(x_name, x_name))
    axes.set_ylabel(MATHS.get(y_name, y_name))
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure, labels: Tensor) -> None:
    """The labels' colours on the first panel, beside the figure, where there are several labels."""
    if len(labels.unique()) > 1:
        handles, words = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles,
            words,
            loc="outside right center",
            markerscale=3,
            frameon=False,
            ncols=1 + len(labels.unique()) // 16,
        )


def _scatter(axes: Axes, points: Tensor, labels: Tensor) -> None:
    # One call for all points keeps their random order; empty calls make the legend.
    colours = palette(labels)
    x, y = points[:, 0].numpy(), points[:, 1].numpy()
    axes.scatter(x, y, s=5, c=[colours[label] for label in labels.tolist()], alpha=0.7, linewidths=0)
    for label, colour in colours.items():
        axes.scatter([], [], s=8, color=colour, label=_name(label))
        if 1 < len(colours) <= 10 and label != NO_LABEL:
            _write(axes, points[labels == label].median(0).values, str(label))


def _write(axes: Axes, point: Tensor, text: str) -> None:
    # A print without colours is readable too.
    outline = [withStroke(linewidth=2.5, foreground="white")]
    x, y = point.tolist()
    axes.text(x, y, text, ha="center", va="center", fontweight="bold", path_effects=outline)


def _histograms(axes: Axes, points: Tensor, labels: Tensor) -> None:
    edges = torch.linspace(points.min().item(), points.max().item() + 1e-6, 61).tolist()
    for label, colour in palette(labels).items():
        values = points[labels == label, 0].numpy()
        axes.hist(
            values, bins=edges, density=True, histtype="step", linewidth=1.4, color=colour, label=_name(label)
        )


def palette(labels: Tensor) -> dict[int, Colour]:
    """A colour for each label that occurs; grey for -1."""
    present = labels.unique().tolist()
    largest = max(present)
    colours = [_colour(label, largest) for label in present]
    return dict(zip(present, colours, strict=True))


def _colour(label: int, largest: int) -> Colour:
    if label == NO_LABEL:
        return GREY
    return colormaps["tab10"](label) if largest < 10 else colormaps["turbo"](label / largest)


def _name(label: int) -> str:
    return "no label" if label == NO_LABEL else str(label)
