"""The manifold of a model with two latents: the means of p(x|z) over the plane."""

import torch
from matplotlib.figure import Figure
from pydantic import PositiveInt
from pytorch_lightning import Trainer
from torch import Tensor

from latentlab.figures.drawing import Drawing, FigureCallback
from latentlab.figures.images import show, tile
from latentlab.models.base import GenerativeModel


class Manifold(FigureCallback):
    """Draws manifold.png when there are two latents, and nothing otherwise.

    Args:
        every_n_epochs: the number of training epochs between two figures.
        rows: the number of rows, and of columns.
    """

    def __init__(self, every_n_epochs: PositiveInt = 10, rows: PositiveInt = 20) -> None:
        super().__init__(every_n_epochs)
        self.rows = rows

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The means at the quantiles of the standard normal."""
        if model.latent_dim != 2:
            return Drawing()
        z = quantile_grid(self.rows).to(trainer.lightning_module.device)
        return Drawing({"manifold": plane(model.decode(z), self.rows)})


def quantile_grid(rows: int) -> Tensor:
    """Points (rows^2, 2) at equal steps of the standard normal's mass, z_1 to the right and z_2 upwards."""
    z = torch.special.ndtri((torch.arange(rows) + 0.5) / rows)
    z_2, z_1 = torch.meshgrid(z.flip(0), z, indexing="ij")
    return torch.stack([z_1.flatten(), z_2.flatten()], dim=1)


def plane(means: Tensor, rows: int) -> Figure:
    """The images (rows^2, 1, H, W) as a square with the quantiles of z on its axes."""
    figure = Figure(figsize=(5.6, 5.8))
    axes = figure.add_subplot()
    picture = tile(means, rows, gap=0)
    show(axes, picture, "means of p(x|z) at the quantiles of N(0, I)")
    quantiles = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    names = [f"{z:.1f}" for z in torch.special.ndtri(quantiles).tolist()]
    places = (quantiles * len(picture) - 0.5).tolist()
    axes.set_xticks(places, names, fontsize=8)
    axes.set_yticks(places, names[::-1], fontsize=8)
    axes.set_xlabel("$z_1$")
    axes.set_ylabel("$z_2$")
    return figure
