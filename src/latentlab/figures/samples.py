"""Samples of the model, and the means of p(x|z) beside samples of the same latents."""

import torch
from matplotlib.figure import Figure
from pydantic import PositiveInt
from pytorch_lightning import Trainer
from torch import Tensor

from latentlab.figures.drawing import SEED, Drawing, FigureCallback
from latentlab.figures.images import show, tile
from latentlab.models.base import GenerativeModel


class Samples(FigureCallback):
    """Draws samples.png, x ~ p(x), and sample_means.png, the means of p(x|z) beside samples for the same z.

    Args:
        every_n_epochs: the number of training epochs between two figures.
        rows: the number of rows, and of columns, of a grid.
    """

    def __init__(self, every_n_epochs: PositiveInt = 10, rows: PositiveInt = 8) -> None:
        super().__init__(every_n_epochs)
        self.rows = rows

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The grid of samples, and the two grids side by side."""
        n = self.rows**2
        samples = _generate(model, n, mean=False)
        means = _generate(model, n, mean=True)
        pictures = {"means of p(x|z)": means, "samples x ~ p(x|z), same z": samples}
        return Drawing(
            {
                "samples": grids({"samples x ~ p(x|z), z ~ p(z)": samples}, self.rows),
                "sample_means": grids(pictures, self.rows),
            }
        )


def _generate(model: GenerativeModel, n: int, mean: bool) -> Tensor:
    # z is drawn first: under the same seed, samples and means belong to the same z.
    torch.manual_seed(SEED)
    return model.generate(n, mean=mean)


def grids(panels: dict[str, Tensor], columns: int) -> Figure:
    """Panels side by side, each a grid of images (N, 1, H, W) under its title."""
    figure = Figure(figsize=(4.4 * len(panels), 4.8))
    for axes, (title, images) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        show(axes, tile(images, columns), title)
    return figure
