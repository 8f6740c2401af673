"""What each layer of a hierarchy decides: samples with the layers frozen from the top."""

from typing import cast

import torch
from matplotlib.figure import Figure
from pydantic import PositiveInt
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from latentlab.figures.drawing import Drawing, FigureCallback
from latentlab.figures.images import show, tile
from latentlab.figures.layers import check_hierarchy, spread_over
from latentlab.models.base import GenerativeModel
from latentlab.models.hierarchy import Hierarchy


class FrozenLayers(FigureCallback):
    """Draws frozen_layers.png: in row k the top k layers of one draw are kept, and those below are drawn anew.

    The images are means of p(x|z): what differs within a row is what the layers that were drawn anew decide.

    Args:
        every_n_epochs: the number of training epochs between two figures.
        columns: the number of images in a row.
        max_rows: the largest number of rows; from more layers, k is chosen from all over.
    """

    def __init__(
        self, every_n_epochs: PositiveInt = 10, columns: PositiveInt = 10, max_rows: PositiveInt = 8
    ) -> None:
        super().__init__(every_n_epochs)
        self.columns = columns
        self.max_rows = max_rows

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a model without layers."""
        check_hierarchy(pl_module)

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The rows."""
        hierarchy = cast(Hierarchy, model)
        kept = spread_over(len(hierarchy.z_shapes), self.max_rows)
        images = frozen_rows(hierarchy, kept, self.columns)
        return Drawing({"frozen_layers": rows(images, kept, self.columns)})


def frozen_rows(model: Hierarchy, kept: list[int], columns: int) -> Tensor:
    """For each k of `kept` the means of draws that share the top k layers, row by row, (rows * columns, *x_shape)."""
    one = model.descend(1)
    pictures = []
    for k in kept:
        top = [z.expand(columns, *z.shape[1:]) for z in one[len(one) - k :]]  # z_1 first
        pictures.append(model.px(model.descend(columns, top)).mean)
    return torch.cat(pictures)


def rows(images: Tensor, kept: list[int], columns: int) -> Figure:
    """A row of images (rows * columns, 1, H, W) for each number of layers that are kept."""
    figure = Figure(figsize=(0.62 * columns + 1.6, 0.62 * len(kept) + 1.0))
    axes = figure.add_subplot()
    picture = tile(images, columns)
    show(axes, picture)
    step = (len(picture) + 1) / len(kept)
    words = [f"top {k} kept" if k else "none kept" for k in kept]
    axes.set_yticks([step * (row + 0.5) - 1 for row in range(len(kept))], words, fontsize=9)
    axes.tick_params(length=0)
    figure.suptitle("means of p(x|z), the layers below those kept drawn anew", fontsize=10)
    return figure
