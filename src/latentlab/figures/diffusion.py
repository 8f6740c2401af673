"""Diffusions: the path from noise to data, the price of fewer steps, and the loss by time."""

from collections.abc import Sequence
from typing import Annotated

import torch
from matplotlib.axes import Axes
from pydantic import Field, PositiveInt
from torch import Tensor

from latentlab.figures.drawing import (
    SEED,
    Cells,
    Data,
    Figure,
    Table,
    TabledFigure,
    cell,
    device_of,
    figure,
    grids,
    plain,
    show,
    spread,
    tile,
)
from latentlab.models.diffusion import Diffusion
from latentlab.models.vdm import DiffusionModel
from latentlab.schedules import alpha, sigma

# Examples that the network sees at a time.
CHUNK = 250


@figure
def denoising(
    model: DiffusionModel,
    data: Data,
    samples: Cells = 4,
    columns: Cells = 11,
    steps: PositiveInt = 100,
) -> Figure:
    r"""Draw z_t from noise to data, and the model's $E[x|z_t]$ below.

    Latents of a latent diffusion are decoded first.

    Args:
        model: the diffusion.
        data: not used.
        samples: the number of paths.
        columns: the number of times, from t = 1 to t = 0.
        steps: the number of diffusion steps.
    """
    times, noisy, clean = paths(model.diffusion, samples, columns, steps)
    upper, lower = (torch.stack([pictured(model, z) for z in strip], 1) for strip in (noisy, clean))
    labels = ["$z_t$", "$E[x|z_t]$"] if denoises_images(model) else ["decoded $z_t$", "$E[z|z_t]$"]
    return strips(times, upper, lower, labels)


@figure
def sampling_steps(
    model: DiffusionModel,
    data: Data,
    steps: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (10, 25, 50, 100, 1000),
    rows: Cells = 4,
) -> Figure:
    """Draw samples with few and with many diffusion steps from the same z_1.

    Args:
        model: the diffusion.
        data: not used.
        steps: the numbers of steps, one grid each.
        rows: the number of rows, and of columns, of a grid.
    """
    panels = {}
    for number in steps:
        torch.manual_seed(SEED)
        panels[f"{number:,} steps"] = model.generate(rows**2, steps=number)
    return grids(panels, rows, side=2.7)


@figure
def loss_by_time(
    model: DiffusionModel, data: Data, bins: PositiveInt = 20, max_examples: PositiveInt = 2000
) -> TabledFigure:
    r"""Draw the loss of a diffusion at time t, whose mean is $L_T$, and gamma(t).

    Args:
        model: the diffusion.
        data: the images.
        bins: the number of intervals of t.
        max_examples: the largest number of images. Each gets one time.
    """
    batch = spread(model, data, max_examples)
    # A random order, because images may be sorted by class and times are sorted.
    noised = model.diffused(model.observe(batch)).data[torch.randperm(len(batch.x))]
    rows = binned(*losses(model, noised), bins)
    gamma = model.diffusion.noise_schedule(torch.linspace(0, 1, 200, device=device_of(model))).gamma
    return curves(rows, gamma.cpu())


def paths(
    diffusion: Diffusion, n: int, columns: int, steps: int
) -> tuple[list[float], list[Tensor], list[Tensor]]:
    r"""Return times from 1 to 0 with z_t and $E[x|z_t] = (z_t - \sigma_t \hat\epsilon) / \alpha_t$ of n paths."""
    chosen = torch.linspace(0, steps, min(columns, steps + 1)).round().long().tolist()
    path = [z for step, z in enumerate(diffusion.path(n, steps)) if step in chosen]
    times = [1 - step / steps for step in chosen]
    return times, path, [_expected(diffusion, z, t) for z, t in zip(path, times, strict=True)]


def _expected(diffusion: Diffusion, z_t: Tensor, t: float) -> Tensor:
    gamma = diffusion.noise_schedule(z_t.new_full((len(z_t),), t)).gamma
    return (z_t - sigma(gamma[0]) * diffusion.predict(z_t, gamma)) / alpha(gamma[0])


def denoises_images(model: DiffusionModel) -> bool:
    """Return True if the diffusion is over images, False if it is over latents."""
    return model.diffusion.event_shape == tuple(model.x_shape)


def pictured(model: DiffusionModel, noised: Tensor) -> Tensor:
    """Return images (N, *x_shape) of what is noised: images in [-1, 1], or latents (N, D), which are decoded."""
    return (noised + 1) / 2 if denoises_images(model) else model.decode(noised.flatten(1))


def strips(times: Sequence[float], noisy: Tensor, clean: Tensor, labels: Sequence[str]) -> Figure:
    """Draw a panel for each path with two rows of images (N, T, C, H, W) at the given times."""
    height, width = noisy.shape[-2:]
    wide, high = cell(noisy, 0.62)
    drawn = Figure(figsize=(wide * len(times) + 1.1, (2 * high + 0.09) * len(noisy) + 0.7))
    panels = drawn.subplots(len(noisy), 1, squeeze=False)[:, 0]
    for axes, z, x in zip(panels, noisy, clean, strict=True):
        show(axes, tile(torch.cat([z, x]), len(times)))
        axes.set_yticks([height / 2, 1.5 * height + 1], labels, fontsize=9)
        axes.tick_params(length=0)
    centres = [(width + 1) * column + width / 2 for column in range(len(times))]
    panels[-1].set_xticks(centres, [f"{time:.2g}" for time in times], fontsize=8)
    drawn.suptitle("ancestral sampling from t = 1 (noise) to t = 0 (data)", fontsize=10)
    return drawn


def losses(model: DiffusionModel, noised: Tensor) -> tuple[Tensor, Tensor]:
    """Return times spread over (0, 1] and the loss of each example (N, *event_shape) at its time, both (N,)."""
    u, eps = model.diffusion.draw(noised)
    t = u if model.steps is None else (u * model.steps).ceil() / model.steps
    parts = zip(noised.split(CHUNK), t.split(CHUNK), eps.split(CHUNK), strict=True)
    loss = torch.cat([model.diffusion.loss_at(x, at, model.steps, noise) for x, at, noise in parts])
    return t.cpu().double(), loss.cpu().double()


def binned(t: Tensor, loss: Tensor, bins: int) -> Tensor:
    """Return the middle, mean, standard error and number of losses of each interval of t with any, (bins, 4)."""
    index = (t * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(index, minlength=bins).double()
    mean = torch.bincount(index, loss, bins) / count
    variance = torch.bincount(index, (loss - mean[index]) ** 2, bins) / (count - 1).clamp(min=1)
    rows = torch.stack([(torch.arange(bins) + 0.5) / bins, mean, (variance / count).sqrt(), count], dim=1)
    return rows[count > 0]


def curves(rows: Tensor, gamma: Tensor) -> TabledFigure:
    """Draw the loss with its standard error above gamma at equal steps from t = 0 to t = 1."""
    tables = {"loss_by_time": Table(["t", "loss", "stderr", "examples"], rows.tolist())}
    drawn = TabledFigure(tables, figsize=(6.4, 5.2))
    upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    t, mean, stderr, count = rows.T.numpy()
    upper.errorbar(t, mean, stderr, fmt="o-", markersize=3, linewidth=1, capsize=2)
    upper.set_ylim(bottom=0)
    total = (mean * count).sum() / count.sum()
    upper.set_title(f"loss at time t; its mean over t is {total:.2f} nats", fontsize=10)
    _label(upper, "loss, nats")
    lower.plot(torch.linspace(0, 1, len(gamma)).numpy(), gamma.numpy(), color="0.3", linewidth=1)
    _label(lower, r"$\gamma(t) = -\log\,\mathrm{SNR}$")
    lower.set_xlabel("t: 0 is data, 1 is noise")
    return drawn


def _label(axes: Axes, name: str) -> None:
    axes.set_ylabel(name)
    plain(axes)
