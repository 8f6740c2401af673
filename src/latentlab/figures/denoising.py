"""How a diffusion makes samples: the chain from noise to data, and what fewer steps cost."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from pydantic import PositiveInt
from pytorch_lightning import Trainer
from torch import Tensor

from latentlab.figures.drawing import SEED, Drawing, FigureCallback
from latentlab.figures.images import show, tile
from latentlab.figures.samples import grids
from latentlab.models.base import GenerativeModel
from latentlab.models.diffusion import Diffusion
from latentlab.models.vdm import DiffusionModel
from latentlab.schedules import alpha, sigma


class DenoisingChain(FigureCallback):
    r"""Draws denoising.png: z_t on the way from noise to data, and under it $E[x|z_t]$ as the model has it then.

    Where latents are denoised, what is drawn is decoded.

    Args:
        every_n_epochs: the number of training epochs between two figures; None: only once the test set is scored.
        samples: the number of chains.
        columns: the number of times drawn, from t = 1 to t = 0.
        steps: the number of steps of a chain.
    """

    def __init__(
        self,
        every_n_epochs: PositiveInt | None = 10,
        samples: PositiveInt = 4,
        columns: PositiveInt = 11,
        steps: PositiveInt = 100,
    ) -> None:
        super().__init__(every_n_epochs)
        self.samples = samples
        self.columns = columns
        self.steps = steps

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The strips; nothing for a model without a diffusion."""
        if not isinstance(model, DiffusionModel):
            return Drawing()
        times, noisy, clean = chains(model.diffusion, self.samples, self.columns, self.steps)
        upper, lower = (torch.stack([pictured(model, z) for z in strip], 1) for strip in (noisy, clean))
        labels = ["$z_t$", "$E[x|z_t]$"] if denoises_images(model) else ["decoded $z_t$", "$E[z|z_t]$"]
        return Drawing({"denoising": strips(times, upper, lower, labels)})


class SamplingSteps(FigureCallback):
    """Draws sampling_steps.png: samples by chains of few and of many steps, from the same z_1.

    Args:
        every_n_epochs: the number of training epochs between two figures; None: only once the test set is scored.
        steps: the numbers of steps.
        rows: the number of rows, and of columns, of a grid.
    """

    def __init__(
        self,
        every_n_epochs: PositiveInt | None = None,
        steps: Sequence[PositiveInt] = (10, 25, 50, 100, 1000),
        rows: PositiveInt = 4,
    ) -> None:
        super().__init__(every_n_epochs)
        self.steps = tuple(steps)
        self.rows = rows

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The grids side by side; nothing for a model without a diffusion."""
        if not isinstance(model, DiffusionModel):
            return Drawing()
        panels = {f"{steps:,} steps": self._samples(model, steps) for steps in self.steps}
        figure = grids(panels, self.rows)
        figure.set_size_inches(2.6 * len(panels), 3.2)
        return Drawing({"sampling_steps": figure})

    def _samples(self, model: Any, steps: int) -> Tensor:
        torch.manual_seed(SEED)
        return model.generate(self.rows**2, steps=steps, progress=sys.stderr.isatty())


def chains(
    diffusion: Diffusion, n: int, columns: int, steps: int
) -> tuple[list[float], list[Tensor], list[Tensor]]:
    r"""Times from 1 to 0, and there z_t and $E[x|z_t] = (z_t - \sigma_t \hat\epsilon) / \alpha_t$ of n chains."""
    chosen = torch.linspace(0, steps, min(columns, steps + 1)).round().long().tolist()
    path = [z for step, z in enumerate(diffusion.path(n, steps)) if step in chosen]
    times = [1 - step / steps for step in chosen]
    return times, path, [_expected(diffusion, z, t) for z, t in zip(path, times, strict=True)]


def _expected(diffusion: Diffusion, z_t: Tensor, t: float) -> Tensor:
    gamma = diffusion.schedule(z_t.new_full((len(z_t),), t)).gamma
    return (z_t - sigma(gamma[0]) * diffusion.predict(z_t, gamma)) / alpha(gamma[0])


def denoises_images(model: DiffusionModel) -> bool:
    """Whether it is images that are noised, and not latents."""
    return model.diffusion.event_shape == tuple(model.x_shape)


def pictured(model: DiffusionModel, data: Tensor) -> Tensor:
    """Images of what is noised: of images in [-1, 1], or of latents (N, D), which are decoded, (N, *x_shape)."""
    return (data + 1) / 2 if denoises_images(model) else model.decode(data.flatten(1))


def strips(times: Sequence[float], noisy: Tensor, clean: Tensor, labels: Sequence[str]) -> Figure:
    """A panel for each chain with two rows of images (N, T, 1, H, W), with their labels, at the given times."""
    height, width = noisy.shape[-2:]
    figure = Figure(figsize=(0.62 * len(times) + 1.1, 1.33 * len(noisy) + 0.7))
    panels = figure.subplots(len(noisy), 1, squeeze=False)[:, 0]
    for axes, z, x in zip(panels, noisy, clean, strict=True):
        show(axes, tile(torch.cat([z, x]), len(times)))
        axes.set_yticks([height / 2, 1.5 * height + 1], labels, fontsize=9)
        axes.tick_params(length=0)
    centres = [(width + 1) * column + width / 2 for column in range(len(times))]
    panels[-1].set_xticks(centres, [f"{time:.2g}" for time in times], fontsize=8)
    figure.suptitle("ancestral sampling from t = 1 (noise) to t = 0 (data)", fontsize=10)
    return figure
