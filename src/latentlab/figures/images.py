"""Images that a model makes: samples, reconstructions, means over a plane or by class."""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentlab.errors import UserError
from latentlab.figures.drawing import (
    SEED,
    Cells,
    Data,
    Figure,
    cell,
    device_of,
    figure,
    grids,
    name_rows,
    show,
    spread,
    spread_over,
    tile,
)
from latentlab.models.base import GenerativeModel
from latentlab.models.conditional import ClassModel
from latentlab.models.hierarchy import Hierarchy


@figure
def samples(model: GenerativeModel, data: Data, rows: Cells = 8) -> Figure:
    """Draw `rows` times `rows` samples x ~ p(x)."""
    return grids({"samples x ~ p(x|z), z ~ p(z)": _generate(model, rows**2, mean=False)}, rows)


@figure
def sample_means(model: GenerativeModel, data: Data, rows: Cells = 8) -> Figure:
    """Draw the means of p(x|z) next to samples x ~ p(x|z) for the same z, each `rows` times `rows`."""
    panels = {
        "means of p(x|z)": _generate(model, rows**2, mean=True),
        "samples x ~ p(x|z), same z": _generate(model, rows**2, mean=False),
    }
    return grids(panels, rows)


def _generate(model: GenerativeModel, n: int, mean: bool) -> Tensor:
    # z is drawn first, so that the same seed gives samples and means of the same z.
    torch.manual_seed(SEED)
    return model.generate(n, mean=mean)


@figure
def reconstructions(model: GenerativeModel, data: Data, pairs: Cells = 4, columns: Cells = 10) -> Figure:
    """Draw rows of images x, each above a row with the means of p(x|z) for z ~ q(z|x).

    Args:
        model: the model.
        data: the images.
        pairs: the number of row pairs.
        columns: the number of images in a row.
    """
    batch = spread(model, data, pairs * columns)
    return row_pairs(batch.x, model.reconstruct(model.observe(batch)), columns)


def row_pairs(originals: Tensor, reconstructed: Tensor, columns: int) -> Figure:
    """Draw a panel for each row of originals (N, C, H, W) and its row of reconstructions."""
    upper, lower = originals.split(columns), reconstructed.split(columns)
    height, width = originals.shape[-2:]
    wide, high = cell(originals, 0.62)
    drawn = Figure(figsize=(wide * columns + 1.1, (2 * high + 0.09) * len(upper) + 0.7))
    for axes, x, mean in zip(drawn.subplots(len(upper), 1, squeeze=False)[:, 0], upper, lower, strict=True):
        show(axes, tile(torch.cat([x, mean]), len(x)))
        axes.set_xlim(-0.5, columns * (width + 1) - 1.5)  # a shorter last row keeps the scale
        axes.set_yticks([height / 2, 1.5 * height + 1], ["x", "E[x|z]"], fontsize=9)
        axes.tick_params(length=0)
    drawn.suptitle("test images x, and the means of p(x|z) for z ~ q(z|x)", fontsize=10)
    return drawn


@figure
def manifold(model: GenerativeModel, data: Data, rows: Cells = 20) -> Figure | None:
    """Draw the means of p(x|z) over the plane of two latents, `rows` times `rows`, or None for another number.

    z is at the quantiles of the standard normal.
    """
    if model.latent_dim != 2:
        return None
    z = quantile_grid(rows).to(device_of(model))
    return plane(model.decode(z), rows)


def check_images(model: GenerativeModel) -> None:
    """Refuse data that are no images.

    Raises:
        UserError: for them.
    """
    if len(model.x_shape) != 3:
        raise UserError(
            f"this figure draws images, and the data of this model have the shape {[*model.x_shape]}: "
            "use figures=points"
        )


def check_two(model: GenerativeModel) -> None:
    """Refuse another number of latents than two.

    Raises:
        UserError: for one.
    """
    if model.latent_dim != 2:
        raise UserError(
            f"manifold draws a plane of two latents, and this model has {model.latent_dim}: "
            "train one with model.latent_dim=2, or choose traversals"
        )


def quantile_grid(rows: int) -> Tensor:
    """Return points (rows^2, 2) at equal steps of the standard normal's mass, z_1 to the right and z_2 upwards."""
    z = torch.special.ndtri((torch.arange(rows) + 0.5) / rows)
    z_2, z_1 = torch.meshgrid(z.flip(0), z, indexing="ij")
    return torch.stack([z_1.flatten(), z_2.flatten()], dim=1)


def plane(means: Tensor, rows: int) -> Figure:
    """Draw images (rows^2, C, H, W) as a grid with the quantiles of z on its axes."""
    wide, high = cell(means, 5.6)
    drawn = Figure(figsize=(wide, high + 0.2))
    axes = drawn.add_subplot()
    picture = tile(means, rows, gap=0)
    show(axes, picture, "means of p(x|z) at the quantiles of N(0, I)")
    quantiles = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    names = [f"{z:.1f}" for z in torch.special.ndtri(quantiles).tolist()]
    height, width = picture.shape[:2]
    axes.set_xticks((quantiles * width - 0.5).tolist(), names, fontsize=8)
    axes.set_yticks((quantiles * height - 0.5).tolist(), names[::-1], fontsize=8)
    axes.set_xlabel("$z_1$")
    axes.set_ylabel("$z_2$")
    return drawn


@figure
def classes(model: ClassModel, data: Data, columns: Cells = 10, max_rows: Cells = 20) -> Figure:
    """Draw means of p(x|y, z) next to samples: a row for each class y, a column for each z.

    Args:
        model: the model.
        data: not used.
        columns: the number of images in a row.
        max_rows: the largest number of rows. With more classes, y takes values from the whole range.
    """
    labels = spread_over(model.num_classes, max_rows)
    means, drawn = (by_class(model, labels, columns, mean) for mean in (True, False))
    return class_grids({"means of p(x|y, z)": means, "samples x ~ p(x|y, z), same z": drawn}, labels, columns)


def by_class(model: ClassModel, labels: Sequence[int], columns: int, mean: bool) -> Tensor:
    """Return samples (or means) of some classes with the same z in each, class by class, (L * columns, *x_shape)."""
    rows = []
    for label in labels:
        torch.manual_seed(SEED)  # z is drawn first, so that every row has the same z
        y = torch.full((columns,), label, device=device_of(model))
        rows.append(model.generate(columns, mean=mean, y=y))
    return torch.cat(rows)


@figure
def clusters(model: ClassModel, data: Data, columns: Cells = 10, max_rows: Cells = 20) -> Figure:
    """Draw means of p(x|z) for z ~ p(z|y) next to samples: a row for each cluster y.

    Args:
        model: the model.
        data: not used.
        columns: the number of images in a row.
        max_rows: the largest number of rows. With more clusters, y takes values from the whole range.
    """
    labels = spread_over(model.num_classes, max_rows)
    means, drawn = (by_class(model, labels, columns, mean) for mean in (True, False))
    panels = {"means of p(x|z), z ~ p(z|y)": means, "samples x ~ p(x|z), same z": drawn}
    return class_grids(panels, labels, columns, "cluster y")


def class_grids(
    panels: dict[str, Tensor], labels: Sequence[int], columns: int, name: str = "class y"
) -> Figure:
    """Draw grids of images (L * columns, C, H, W) side by side, with the class of each of the L rows."""
    width, height = cell(next(iter(panels.values())), 4.4)
    drawn = Figure(figsize=((width + 0.2) * len(panels), height * len(labels) / columns + 0.8))
    places = drawn.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, images) in zip(places, panels.items(), strict=True):
        picture = tile(images, columns)
        show(axes, picture, title)
        name_rows(axes, picture, [str(label) for label in labels])
        axes.tick_params(labelsize=8)
        axes.set_ylabel(name)
    return drawn


@figure
def frozen_layers(model: Hierarchy, data: Data, columns: Cells = 10, max_rows: Cells = 8) -> Figure:
    """Draw means of p(x|z) whose top k layers are the same in row k, with new draws of the layers below.

    The images of a row differ only by the layers that were drawn anew.

    Args:
        model: the hierarchy.
        data: not used.
        columns: the number of images in a row.
        max_rows: the largest number of rows. With more layers, k takes values from the whole range.
    """
    kept = spread_over(len(model.z_shapes), max_rows)
    return kept_rows(frozen_rows(model, kept, columns), kept, columns)


def frozen_rows(model: Hierarchy, kept: list[int], columns: int) -> Tensor:
    """Return a row of means for each k of `kept`, whose draws share the top k layers, (rows * columns, *x_shape)."""
    one = model.descend(1)
    pictures = []
    for k in kept:
        top = [z.expand(columns, *z.shape[1:]) for z in one[len(one) - k :]]  # z_1 first
        pictures.append(model.px(model.descend(columns, top)).mean)
    return torch.cat(pictures)


def kept_rows(images: Tensor, kept: list[int], columns: int) -> Figure:
    """Draw images (rows * columns, C, H, W) with the number of layers kept in each row."""
    wide, high = cell(images, 0.62)
    drawn = Figure(figsize=(wide * columns + 1.6, high * len(kept) + 1.0))
    axes = drawn.add_subplot()
    picture = tile(images, columns)
    show(axes, picture)
    name_rows(axes, picture, [f"top {k} kept" if k else "none kept" for k in kept])
    axes.tick_params(labelsize=9)
    drawn.suptitle("means of p(x|z), the layers below those kept drawn anew", fontsize=10)
    return drawn
