"""Where along the diffusion the bound is lost."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import PositiveInt
from pytorch_lightning import Trainer
from torch import Tensor

from latentlab.figures.data import observed, spread
from latentlab.figures.drawing import Drawing, FigureCallback, Table
from latentlab.models.base import GenerativeModel
from latentlab.models.vdm import DiffusionModel
from latentlab.schedules import NoiseSchedule

# Examples that the network sees at a time.
CHUNK = 250


class LossByTime(FigureCallback):
    r"""Draws loss_by_time.png: the loss of a diffusion at time t over the test set, whose mean is $L_T$, and gamma(t).

    Args:
        every_n_epochs: the number of training epochs between two figures; None: only once the test set is scored.
        bins: the number of intervals of t.
        max_examples: how many test images are noised, at one time each.
    """

    def __init__(
        self,
        every_n_epochs: PositiveInt | None = 10,
        bins: PositiveInt = 20,
        max_examples: PositiveInt = 2000,
    ) -> None:
        super().__init__(every_n_epochs)
        self.bins = bins
        self.max_examples = max_examples

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The curves, and the means as a table; nothing for a model without a diffusion."""
        if not isinstance(model, DiffusionModel):
            return Drawing()
        batch = spread(trainer, self.max_examples)
        # In an order of their own: images may be sorted by class, and times are by size.
        data = model.diffused(observed(trainer, batch)).data[torch.randperm(len(batch.x))]
        rows = binned(*losses(model, data), self.bins)
        table = Table(["t", "loss", "stderr", "examples"], rows.tolist())
        return Drawing({"loss_by_time": curves(rows, model.diffusion.schedule)}, {"loss_by_time": table})


def losses(model: DiffusionModel, data: Tensor) -> tuple[Tensor, Tensor]:
    """Times spread over (0, 1] for tensors (N, *event_shape), and the loss of each at its own, both (N,)."""
    u, eps = model.diffusion.draw(data)
    t = u if model.steps is None else (u * model.steps).ceil() / model.steps
    parts = zip(data.split(CHUNK), t.split(CHUNK), eps.split(CHUNK), strict=True)
    loss = torch.cat([model.diffusion.loss_at(x, at, model.steps, noise) for x, at, noise in parts])
    return t.cpu().double(), loss.cpu().double()


def binned(t: Tensor, loss: Tensor, bins: int) -> Tensor:
    """Middle, mean, its standard error and the number of losses of each interval of t that has any, (bins, 4)."""
    index = (t * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(index, minlength=bins).double()
    mean = torch.bincount(index, loss, bins) / count
    spread = torch.bincount(index, (loss - mean[index]) ** 2, bins) / (count - 1).clamp(min=1)
    rows = torch.stack([(torch.arange(bins) + 0.5) / bins, mean, (spread / count).sqrt(), count], dim=1)
    return rows[count > 0]


def curves(rows: Tensor, schedule: NoiseSchedule) -> Figure:
    """The loss with its standard error, and the schedule under the same axis."""
    figure = Figure(figsize=(6.4, 5.2))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    t, mean, stderr, count = rows.T.numpy()
    upper.errorbar(t, mean, stderr, fmt="o-", markersize=3, linewidth=1, capsize=2)
    upper.set_ylim(bottom=0)
    total = (mean * count).sum() / count.sum()
    upper.set_title(f"loss at time t; its mean over t is {total:.2f} nats", fontsize=10)
    _label(upper, "loss, nats")
    grid = torch.linspace(0, 1, 200)
    device = next(schedule.parameters(), grid).device
    lower.plot(grid.numpy(), schedule(grid.to(device)).gamma.cpu().numpy(), color="0.3", linewidth=1)
    _label(lower, r"$\gamma(t) = -\log\,\mathrm{SNR}$")
    lower.set_xlabel("t: 0 is data, 1 is noise")
    return figure


def _label(axes: Axes, name: str) -> None:
    axes.set_ylabel(name)
    axes.spines[["top", "right"]].set_visible(False)
