"""Scatter plots of latents z ~ q(z|x), coloured by label."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from latentlab.errors import UserError
from latentlab.figures.contours import (
    SMOOTHING_OF_EMBEDDINGS,
    PriorView,
    crosses,
    draw_prior,
    grid,
    histogram,
    lines,
    prior_draws,
    prior_view,
    words,
)
from latentlab.figures.drawing import (
    SEED,
    Data,
    Figure,
    Table,
    TabledFigure,
    batches,
    figure,
    head,
    plain,
    spread_over,
)
from latentlab.models.base import GenerativeModel
from latentlab.models.hierarchy import Hierarchy

NO_LABEL = -1
# A legend of more labels would leave no place for the points.
MOST_LABELS = 64
GREY = (0.55, 0.55, 0.55, 1.0)
Colour = tuple[float, float, float, float]
# Maps vectors (N, D) to coordinates (N, 2).
Embedding = Callable[[Any], Any]


@dataclass(frozen=True)
class Plane:
    """At most two coordinates of latents: the latents, or their first two principal components.

    Attributes:
        origin: the mean of the latents, or zero, (D,).
        axes: the axes as columns, (D, d).
        names: the names of the axes.
    """

    origin: Tensor
    axes: Tensor
    names: Sequence[str]

    @classmethod
    def of(cls, z: Tensor) -> "Plane":
        """Return the plane of latents (N, D)."""
        size = z.shape[1]
        if size <= 2:
            return cls(
                torch.zeros(size).double(), torch.eye(size).double(), [f"z_{i + 1}" for i in range(size)]
            )
        origin = z.double().mean(0)
        axes, explained = principal_axes(z.double() - origin)
        names = [f"component {i + 1} ({100 * share:.1f} %)" for i, share in enumerate(explained.tolist())]
        return cls(origin, axes, names)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the coordinates of latents (N, D), (N, d)."""
        return ((z.double() - self.origin) @ self.axes).float()


def principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first two principal axes of z (N, D) with mean 0, (D, 2), and their shares of the variance, (2,)."""
    variances, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, [-1, -2]]
    # The sign of a component is arbitrary. A fixed one keeps figures from flipping between epochs.
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return axes * signs, variances[[-1, -2]] / variances.sum().clamp(min=1e-300)


@dataclass(frozen=True)
class Cloud:
    """Draws of the aggregate posterior q(z) over at most two coordinates, and p(z) there.

    Attributes:
        points: the coordinates, (N, d).
        labels: the labels, (N,), -1 for none.
        names: the names of the axes.
        prior: p(z), or None without one.
    """

    points: Tensor
    labels: Tensor
    names: Sequence[str]
    prior: PriorView | None = None

    @property
    def table(self) -> Table:
        rows = [
            [*point, label] for point, label in zip(self.points.tolist(), self.labels.tolist(), strict=True)
        ]
        return Table([*self.names, "label"], rows)

    def draw(self, axes: Axes) -> None:
        """Draw the points over the contours of p(z)."""
        if self.prior is not None:
            draw_prior(axes, self.prior)
        scatter(axes, self.points, self.labels, self.names)

    def alone(self) -> TabledFigure:
        """Return a figure of this cloud."""
        drawn = TabledFigure({"latents": self.table}, figsize=(6.2, 5.2))
        axes = drawn.add_subplot()
        self.draw(axes)
        remark = words(self.prior)
        axes.set_title(
            "z ~ q(z|x), test set" + (f"; {remark}" if remark else ""), fontsize=8 if remark else 10
        )
        legend(drawn, self.labels)
        return drawn


@figure
def latents(
    model: GenerativeModel,
    data: Data,
    max_points: PositiveInt = 10_000,
    prior_draws: NonNegativeInt = 10_000,
) -> TabledFigure:
    """Draw z ~ q(z|x) over contours of p(z), in the plane of the first two principal components of q(z).

    Two latents are their own plane. A single latent is drawn as histograms.

    Args:
        model: the model.
        data: the images and labels.
        max_points: the largest number of points, chosen at random from more.
        prior_draws: the number of draws of p(z) that make the contours. 0 leaves them out.
    """
    return cloud(model, data, max_points, prior_draws).alone()


@figure
def latents_tsne(
    model: GenerativeModel,
    data: Data,
    max_points: PositiveInt = 2_000,
    prior_draws: NonNegativeInt = 1_000,
    perplexity: PositiveFloat = 30.0,
) -> TabledFigure:
    """Draw z ~ q(z|x) over contours of p(z), embedded together by t-SNE (van der Maaten and Hinton 2008)."""
    from sklearn.manifold import TSNE  # late, as it is slow to import

    def embed(z: Any) -> Any:
        return TSNE(perplexity=min(perplexity, (len(z) - 1) / 3), random_state=SEED).fit_transform(z)

    return embedded(model, data, max_points, prior_draws, embed, "t-SNE").alone()


@figure
def latents_umap(
    model: GenerativeModel,
    data: Data,
    max_points: PositiveInt = 2_000,
    prior_draws: NonNegativeInt = 1_000,
    neighbours: PositiveInt = 15,
) -> TabledFigure:
    """Draw z ~ q(z|x) over contours of p(z), embedded together by UMAP (McInnes et al. 2018).

    Raises:
        UserError: without the library umap-learn.
    """
    check_umap(model)
    from umap import UMAP

    embed = UMAP(n_neighbors=neighbours, random_state=SEED, n_jobs=1).fit_transform
    return embedded(model, data, max_points, prior_draws, embed, "UMAP").alone()


def check_umap(model: GenerativeModel) -> None:
    """Refuse UMAP without its library.

    Raises:
        UserError: if umap-learn is not installed.
    """
    found = find_spec("umap")
    if found is None or found.origin is None:  # a folder of this name is not the library
        raise UserError(
            "latents_umap needs the library umap-learn: pip install umap-learn, or choose latents_tsne"
        )


def cloud(model: GenerativeModel, data: Data, max_points: int = 10_000, draws: int = 10_000) -> Cloud:
    """Draw z ~ q(z|x) for at most `max_points` examples, with p(z) from `draws` draws."""
    z, y = encoded(model, data, max_points)
    plane = Plane.of(z)
    points = plane(z)
    return Cloud(points, y, plane.names, prior_view(model, plane, points, draws))


def embedded(
    model: GenerativeModel, data: Data, max_points: int, draws: int, embed: Embedding, name: str
) -> Cloud:
    """Embed draws of q(z) and of p(z) together in two dimensions."""
    z, y = encoded(model, data, max_points)
    names = [f"{name} {axis}" for axis in (1, 2)]
    drawn = prior_draws(model, draws, torch.Tensor.float)
    both = z.float() if drawn is None else torch.cat([z.float(), drawn])
    points, placed = torch.from_numpy(embed(both.numpy())).float().tensor_split([len(z)])
    if len(placed) < 2:
        return Cloud(points, y, names)
    density = histogram(placed, grid(points, placed), SMOOTHING_OF_EMBEDDINGS)
    return Cloud(points, y, names, PriorView(density))


def encoded(model: GenerativeModel, data: Data, max_points: int) -> tuple[Tensor, Tensor]:
    """Draw flat z ~ q(z|x) for at most `max_points` examples, (N, D), with their labels (N,), on the CPU."""
    zs, labels = zip(
        *((model.encode(model.observe(b)).flatten(1).cpu(), b.y.cpu()) for b in batches(model, data)),
        strict=True,
    )
    z, y = torch.cat(zs), torch.cat(labels)
    order = torch.randperm(len(z))[:max_points]  # a random order, so that no class hides the others
    return z[order], y[order]


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
    """Draw layers (N, D) with these numbers side by side."""
    planes = [Plane.of(z) for z in zs]
    clouds = [Cloud(plane(z), labels, plane.names) for plane, z in zip(planes, zs, strict=True)]
    titles = [f"$z_{{{number}}}$: {z.shape[1]} latents" for number, z in zip(numbers, zs, strict=True)]
    drawn = sheet(list(zip(titles, clouds, strict=True)))
    drawn.suptitle("draws of each layer given the test images", fontsize=10)
    return drawn


def sheet(clouds: Sequence[tuple[str, Cloud]], remark: str = "") -> Figure:
    """Draw clouds side by side, at most three in a row.

    Args:
        clouds: the title of each cloud, and the cloud.
        remark: a second line of the title.
    """
    columns = min(len(clouds), 3)
    rows = -(-len(clouds) // columns)
    drawn = Figure(figsize=(4.2 * columns + 0.8, 4.0 * rows + 0.4))
    places = drawn.subplots(rows, columns, squeeze=False).flatten()
    held = [lines(each.prior) for _, each in clouds]
    differ = len({*held} - {""}) > 1
    for axes, (title, each), line in zip(places, clouds, held, strict=False):
        each.draw(axes)
        axes.set_title(f"{title}\n{line}" if differ else title, fontsize=8 if differ else 10)
    for axes in places[len(clouds) :]:
        axes.remove()
    shared = ["" if differ else max(held), max(crosses(each.prior) for _, each in clouds)]
    title = "; ".join(filter(None, ["z ~ q(z|x), test set", *shared]))
    head(drawn, title, remark)
    legend(drawn, torch.cat([each.labels for _, each in clouds]))
    return drawn


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
