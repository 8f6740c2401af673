"""Test images with their reconstructions under them."""

import torch
from matplotlib.figure import Figure
from pydantic import PositiveInt
from pytorch_lightning import Trainer
from torch import Tensor

from latentlab.figures.data import observed, spread
from latentlab.figures.drawing import Drawing, FigureCallback
from latentlab.figures.images import show, tile
from latentlab.models.base import GenerativeModel


class Reconstructions(FigureCallback):
    """Draws reconstructions.png: rows of test images, each with the means of p(x|z), z ~ q(z|x), under it.

    Args:
        every_n_epochs: the number of training epochs between two figures.
        pairs: the number of row pairs.
        columns: the number of images in a row.
    """

    def __init__(
        self, every_n_epochs: PositiveInt = 10, pairs: PositiveInt = 4, columns: PositiveInt = 10
    ) -> None:
        super().__init__(every_n_epochs)
        self.pairs = pairs
        self.columns = columns

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The row pairs."""
        batch = spread(trainer, self.pairs * self.columns)
        means = model.reconstruct(observed(trainer, batch))
        return Drawing({"reconstructions": row_pairs(batch.x, means, self.columns)})


def row_pairs(originals: Tensor, reconstructions: Tensor, columns: int) -> Figure:
    """A panel for each row of originals (N, 1, H, W) with its row of reconstructions under it."""
    upper, lower = originals.split(columns), reconstructions.split(columns)
    height, width = originals.shape[-2:]
    figure = Figure(figsize=(0.62 * columns + 1.1, 1.33 * len(upper) + 0.7))
    for axes, x, mean in zip(figure.subplots(len(upper), 1, squeeze=False)[:, 0], upper, lower, strict=True):
        show(axes, tile(torch.cat([x, mean]), len(x)))
        axes.set_xlim(-0.5, columns * (width + 1) - 1.5)  # a shorter last row keeps the scale
        axes.set_yticks([height / 2, 1.5 * height + 1], ["x", "E[x|z]"], fontsize=9)
        axes.tick_params(length=0)
    figure.suptitle("test images x, and the means of p(x|z) for z ~ q(z|x)", fontsize=10)
    return figure
