"""Samples of every class of a model of images and labels."""

from typing import cast

import torch
from matplotlib.figure import Figure
from pydantic import PositiveInt
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from latentlab.errors import UserError
from latentlab.figures.drawing import SEED, Drawing, FigureCallback
from latentlab.figures.images import show, tile
from latentlab.models.base import GenerativeModel
from latentlab.models.conditional import ConditionalVAE


class ClassSamples(FigureCallback):
    """Draws classes.png: a row for each class y, a column for each z, the means of p(x|y, z) beside samples.

    Args:
        every_n_epochs: the number of training epochs between two figures.
        columns: the number of draws of z.
    """

    def __init__(self, every_n_epochs: PositiveInt = 10, columns: PositiveInt = 10) -> None:
        super().__init__(every_n_epochs)
        self.columns = columns

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a model without classes.

        Raises:
            UserError: with the way out.
        """
        if not isinstance(pl_module.model, ConditionalVAE):
            raise UserError(
                f"callbacks=conditional draws samples by class, and {type(pl_module.model).__name__} has no classes: "
                "choose callbacks=default, or model=conditional_vae"
            )

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The two grids side by side."""
        conditional = cast(ConditionalVAE, model)
        means, samples = (by_class(conditional, self.columns, mean) for mean in (True, False))
        panels = {"means of p(x|y, z)": means, "samples x ~ p(x|y, z), same z": samples}
        return Drawing({"classes": class_grids(panels, self.columns)})


def by_class(model: ConditionalVAE, columns: int, mean: bool) -> Tensor:
    """Samples, or means, of every class with the same draws of z in each, class by class, (C * columns, *x_shape)."""
    rows = []
    for label in range(model.num_classes):
        torch.manual_seed(SEED)  # z is drawn first, hence the same in every row
        y = torch.full((columns,), label, device=model.label_logits.device)
        rows.append(model.generate(columns, mean=mean, y=y))
    return torch.cat(rows)


def class_grids(panels: dict[str, Tensor], columns: int) -> Figure:
    """Panels side by side, each a grid of images (C * columns, 1, H, W) with the classes beside its rows."""
    classes = len(next(iter(panels.values()))) // columns
    figure = Figure(figsize=(4.6 * len(panels), 4.4 * classes / columns + 0.8))
    for axes, (title, images) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        picture = tile(images, columns)
        show(axes, picture, title)
        step = (len(picture) + 1) / classes
        axes.set_yticks(
            [step * (row + 0.5) - 1 for row in range(classes)], [str(row) for row in range(classes)]
        )
        axes.tick_params(length=0, labelsize=8)
        axes.set_ylabel("class y")
    return figure
