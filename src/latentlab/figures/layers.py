"""The layers of a hierarchy, one by one: their latents and their KL divergences."""

from collections.abc import Sequence
from typing import cast

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import PositiveInt
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from latentlab.errors import UserError
from latentlab.figures.data import batches
from latentlab.figures.drawing import Drawing, FigureCallback
from latentlab.figures.latents import legend, panel, project
from latentlab.models.base import GenerativeModel
from latentlab.models.hierarchy import Hierarchy


def check_hierarchy(pl_module: LightningModule) -> None:
    """Refuse a model without layers.

    Raises:
        UserError: with the way out.
    """
    model = pl_module.model
    if not isinstance(model, Hierarchy):
        raise UserError(
            f"callbacks=hierarchy draws the layers of a hierarchy, and {type(model).__name__} is none: "
            "choose callbacks=default, or model=hierarchical_vae, ladder_vae or markovian_hvae"
        )


class LayerLatents(FigureCallback):
    """Draws latents_layers.png: z_l ~ q of each layer on a panel of its own, by its first two principal components.

    Args:
        every_n_epochs: the number of training epochs between two figures.
        max_points: the largest number of test examples to draw, chosen at random from more.
        max_layers: the largest number of layers to draw, from all over more, the lowest and the top one among them.
    """

    def __init__(
        self,
        every_n_epochs: PositiveInt = 10,
        max_points: PositiveInt = 10_000,
        max_layers: PositiveInt = 6,
    ) -> None:
        super().__init__(every_n_epochs)
        self.max_points = max_points
        self.max_layers = max_layers

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a model without layers."""
        check_hierarchy(pl_module)

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The scatter plots, or histograms of layers of a single latent."""
        hierarchy = cast(Hierarchy, model)
        chosen = spread_over(len(hierarchy.z_shapes), self.max_layers)
        zs, y = layers_of(trainer, hierarchy, chosen)
        # In random order, so that no class hides the others.
        order = torch.randperm(len(y))[: self.max_points]
        numbers = [layer + 1 for layer in chosen]
        return Drawing({"latents_layers": panels([z[order] for z in zs], y[order], numbers)})


def spread_over(n: int, at_most: int) -> list[int]:
    """The indices 0, ..., n - 1, or `at_most` of them from all over, the last one always."""
    return torch.linspace(n - 1, 0, min(n, at_most)).round().long().flip(0).tolist()


def layers_of(trainer: Trainer, model: Hierarchy, chosen: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """A draw of the chosen layers for the whole test set, flat, each (N, D), and labels (N,), on the CPU."""
    drawn, labels = [], []
    for x, y in batches(trainer):
        zs = model(x).z
        drawn.append([zs[layer][0].flatten(1).cpu() for layer in chosen])
        labels.append(y)
    return [torch.cat(layer) for layer in zip(*drawn, strict=True)], torch.cat(labels)


def panels(zs: Sequence[Tensor], labels: Tensor, numbers: Sequence[int]) -> Figure:
    """The layers of these numbers, each (N, D), side by side, at most three in a row."""
    columns = min(len(zs), 3)
    rows = -(-len(zs) // columns)
    figure = Figure(figsize=(4.2 * columns + 0.8, 4.0 * rows + 0.4))
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, z, number in zip(places, zs, numbers, strict=False):
        points, names = project(z)
        panel(axes, points, labels, names)
        axes.set_title(f"$z_{{{number}}}$: {z.shape[1]} latents", fontsize=10)
    for axes in figure.axes[len(zs) :]:
        axes.remove()
    figure.suptitle("draws of each layer given the test images", fontsize=10)
    legend(figure, labels)
    return figure


class LayerKL(FigureCallback):
    """Draws layer_kl.png: the KL of each layer, the means that a run reports: of the test set once it is scored.

    While a run is trained they are those of the validation set, and there is no figure without one.

    Args:
        every_n_epochs: the number of training epochs between two figures.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a model without layers."""
        check_hierarchy(pl_module)

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The bars; every run with layers logs the numbers as a table."""
        hierarchy = cast(Hierarchy, model)
        split = "test" if trainer.testing else "val"
        names = [f"{split}/kl_{layer}" for layer in range(1, len(hierarchy.z_shapes) + 1)]
        kls = [trainer.callback_metrics[name].item() for name in names if name in trainer.callback_metrics]
        if not kls:
            return Drawing()
        return Drawing({"layer_kl": bars(kls, hierarchy.layer_name, split)})


def bars(kls: Sequence[float], layer_name: str, split: str) -> Figure:
    """A bar for each layer, from the one next to the data upwards."""
    figure = Figure(figsize=(min(3.2 + 0.35 * len(kls), 9.0), 3.6))
    axes = figure.add_subplot()
    axes.bar(range(1, len(kls) + 1), kls, width=0.8)
    if len(kls) <= 12:
        for layer, kl in enumerate(kls, start=1):
            axes.text(layer, max(kl, 0.0), f"{kl:.1f}", ha="center", va="bottom", fontsize=8)
    axes.axhline(0, color="0.2", linewidth=0.8)
    axes.set_xlim(0.3, len(kls) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"{layer_name}, 1 next to the data")
    axes.set_ylabel("KL, nats")
    which = {"test": "test", "val": "validation"}[split]
    axes.set_title(f"KL of each layer, {which} set: {sum(kls):.2f} nats in all", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
