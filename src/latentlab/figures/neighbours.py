"""Samples next to their nearest training images."""

from collections.abc import Iterator, Sequence

import torch
from matplotlib.axes import Axes
from pydantic import PositiveInt
from torch import Tensor

from latentlab.batch import Sets
from latentlab.errors import UserError
from latentlab.figures.drawing import (
    Cells,
    Data,
    Table,
    TabledFigure,
    batches,
    cell,
    figure,
    plain,
    show,
    spread,
    tile,
)
from latentlab.models.base import GenerativeModel


@figure
def neighbours(
    model: GenerativeModel,
    data: Sets,
    rows: Cells = 8,
    columns: Cells = 5,
    number: PositiveInt = 500,
    mean: bool = False,
) -> TabledFigure | None:
    """Draw samples with their nearest training images, and the distances next to those of test images.

    Samples that are closer to the training images than test images are show memorisation. Distances are Euclidean, over
    the pixels. The table `neighbours` has all of them. The result is None for a model without samples.

    Args:
        model: the model.
        data: the training set and the test set.
        rows: the number of samples that are drawn.
        columns: the number of training images for each.
        number: the number of samples and of test images whose distances are measured.
        mean: use means of p(x|z) instead of samples. Pixel noise makes distances larger.
    """
    if not model.generative:
        return None
    x = model.generate(number, mean=mean)
    found, nearest = nearest_images(x, batches(model, data.training), columns)
    tested, _ = nearest_images(spread(model, data.test, number).x, batches(model, data.training), 1)
    distances = {"samples": found[:, 0].cpu(), "test images": tested[:, 0].cpu()}
    table = Table(["set", "distance"], [[name, d] for name, each in distances.items() for d in each.tolist()])
    pictures = torch.cat([x[:, None], nearest], dim=1)[:rows].flatten(0, 1)
    width, height = cell(pictures, 0.62)
    shown = min(rows, number)
    drawn = TabledFigure(
        {"neighbours": table}, figsize=(width * (columns + 1) + 4.2, max(height * shown, 2.6) + 0.6)
    )
    left, right = drawn.subplots(1, 2, width_ratios=[width * (columns + 1), 3.6])
    what = "means of p(x|z)" if mean else "samples"
    show(left, tile(pictures, columns + 1), f"{what} (left), nearest training images")
    _histograms(right, distances)
    return drawn


def check_samples(model: GenerativeModel) -> None:
    """Refuse a model without samples.

    Raises:
        UserError: for one.
    """
    if not model.generative:
        raise UserError(f"neighbours draws samples, and {type(model).__name__} has none: choose model=vae")


def nearest_images(x: Tensor, data: Data | Iterator, columns: int) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distances of x (N, *x_shape) to its nearest images of the data, and these images.

    Returns:
        The distances (N, columns) in ascending order, and the images (N, columns, *x_shape).
    """
    distances, images = x.new_empty(len(x), 0), x.new_empty(len(x), 0, *x.shape[1:])
    for batch in data:
        near, which = torch.cdist(x.flatten(1), batch.x.to(x).flatten(1)).topk(
            min(columns, len(batch.x)), largest=False
        )
        distances = torch.cat([distances, near], dim=1)
        images = torch.cat([images, batch.x.to(x)[which]], dim=1)
        distances, kept = distances.topk(min(columns, distances.shape[1]), largest=False)
        images = images[torch.arange(len(x), device=x.device)[:, None], kept]
    return distances, images


def _histograms(axes: Axes, distances: dict[str, Tensor]) -> None:
    ends: Sequence[Tensor] = torch.cat(list(distances.values())).aminmax()
    edges = torch.linspace(ends[0].item(), ends[1].item() + 1e-6, 41).tolist()
    for name, each in distances.items():
        axes.hist(
            each.numpy(),
            bins=edges,
            histtype="step",
            linewidth=1.4,
            label=f"{name}: median {each.median():.2f}",
        )
    axes.set_xlabel("distance to the nearest training image")
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    plain(axes)
