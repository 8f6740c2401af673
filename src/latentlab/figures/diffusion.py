"""Diffusions: the path from noise to data, the price of fewer steps, and the loss by time."""

from collections.abc import Sequence
from typing import Annotated

import torch
from matplotlib.axes import Axes
from pydantic import Field, NonNegativeFloat, PositiveInt
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
    spread_over,
    tile,
)
from latentlab.figures.images import class_grids
from latentlab.models.latent_vdm import LatentVDM
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
    times, noisy, clean = paths(model, samples, columns, steps)
    upper, lower = (torch.stack([pictured(model, z) for z in strip], 1) for strip in (noisy, clean))
    labels = ["$z_t$", "$E[x|z_t]$"] if denoises_images(model) else ["decoded $z_t$", "$E[z|z_t]$"]
    return strips(times, upper, lower, labels, way(model, steps))


@figure
def chains(
    model: DiffusionModel,
    data: Data,
    samples: Cells = 8,
    columns: Cells = 12,
    steps: PositiveInt = 100,
) -> Figure:
    """Draw z_t from noise to data, a row for each sample. Latents of a latent diffusion are decoded first.

    Args:
        model: the diffusion.
        data: not used.
        samples: the number of paths.
        columns: the number of times, from t = 1 to t = 0.
        steps: the number of diffusion steps.
    """
    times, noisy, _ = paths(model, samples, columns, steps)
    pictures = torch.stack([pictured(model, z) for z in noisy], 1)  # (samples, T, C, H, W)
    wide, high = cell(pictures, 0.62)
    drawn = Figure(figsize=(wide * len(times) + 0.4, high * samples + 1.0))
    axes = drawn.add_subplot()
    show(axes, tile(pictures.flatten(0, 1), len(times)), way(model, steps))
    _name_times(axes, times, pictures.shape[-1])
    return drawn


@figure
def guided_classes(
    model: DiffusionModel,
    data: Data,
    guidance: Annotated[Sequence[NonNegativeFloat], Field(min_length=1)] = (0.0, 2.0),
    columns: Cells = 6,
    max_rows: Cells = 10,
    steps: PositiveInt = 100,
) -> Figure | None:
    """Draw samples of every class, a grid for each weight of guidance, or None for a model without classes.

    A sample starts from the same noise in every grid, and in every row.

    Args:
        model: the diffusion.
        data: not used.
        guidance: the weights.
        columns: the number of samples of a class.
        max_rows: the largest number of classes. Of more, some from the whole range are drawn.
        steps: the number of diffusion steps.
    """
    if model.diffusion.num_classes is None:
        return None
    labels = spread_over(model.diffusion.num_classes, max_rows)
    panels = {f"guidance {w:g}": of_classes(model, labels, columns, steps, w) for w in guidance}
    return class_grids(panels, labels, columns)


def of_classes(
    model: DiffusionModel, labels: Sequence[int], columns: int, steps: int, guidance: float
) -> Tensor:
    """Return means of p(x|.) for samples of some classes, class by class, (L * columns, *x_shape)."""
    rows = []
    for label in labels:
        torch.manual_seed(SEED)
        y = torch.full((columns,), label, device=device_of(model))
        z_0 = model.diffusion.sample(columns, steps, sampler=model.sampler, y=y, guidance=guidance)
        rows.append(model.likelihood(model.end(z_0)).mean)
    return torch.cat(rows)


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
    order = torch.randperm(len(batch.x))
    drawn = model.diffused(model.observe(batch))
    rows = binned(*losses(model, drawn.data[order], None if drawn.y is None else drawn.y[order]), bins)
    gamma = model.diffusion.noise_schedule(torch.linspace(0, 1, 200, device=device_of(model))).gamma
    return curves(rows, gamma.cpu())


def paths(
    model: DiffusionModel, n: int, columns: int, steps: int
) -> tuple[list[float], list[Tensor], list[Tensor]]:
    r"""Return times from 1 to 0 with z_t and $E[x|z_t] = (z_t - \sigma_t \hat\epsilon) / \alpha_t$ of n paths."""
    chosen = torch.linspace(0, steps, min(columns, steps + 1)).round().long().tolist()
    y = model.draw_classes(n)
    path = [z for step, z in enumerate(model.path(n, steps, y)) if step in chosen]
    times = [1 - step / steps for step in chosen]
    return times, path, [_expected(model, z, t, y) for z, t in zip(path, times, strict=True)]


def _expected(model: DiffusionModel, z_t: Tensor, t: float, y: Tensor | None) -> Tensor:
    diffusion = model.diffusion
    gamma = diffusion.noise_schedule(z_t.new_full((len(z_t),), t)).gamma
    eps_hat = diffusion.guided(z_t, gamma, y, model.guidance)
    return (z_t - sigma(gamma[0]) * eps_hat) / alpha(gamma[0])


def way(model: DiffusionModel, steps: int) -> str:
    """The title of a figure of paths."""
    return f"{type(model.sampler).__name__} sampling in {steps:,} steps from t = 1 (noise) to t = 0 (data)"


def denoises_images(model: DiffusionModel) -> bool:
    """Return True if the diffusion is over images, False if it is over latents."""
    return model.diffusion.event_shape == tuple(model.x_shape)


def pictured(model: DiffusionModel, noised: Tensor) -> Tensor:
    """Return images (N, *x_shape) of what is noised: images in [-1, 1], or latents (N, D), which are decoded."""
    if denoises_images(model):
        return (noised + 1) / 2
    return model.decode(model.unstandardised(noised) if isinstance(model, LatentVDM) else noised.flatten(1))


def strips(times: Sequence[float], noisy: Tensor, clean: Tensor, labels: Sequence[str], title: str) -> Figure:
    """Draw a panel for each path with two rows of images (N, T, C, H, W) at the given times."""
    height, width = noisy.shape[-2:]
    wide, high = cell(noisy, 0.62)
    drawn = Figure(figsize=(wide * len(times) + 1.1, (2 * high + 0.09) * len(noisy) + 0.7))
    panels = drawn.subplots(len(noisy), 1, squeeze=False)[:, 0]
    for axes, z, x in zip(panels, noisy, clean, strict=True):
        show(axes, tile(torch.cat([z, x]), len(times)))
        axes.set_yticks([height / 2, 1.5 * height + 1], labels, fontsize=9)
        axes.tick_params(length=0)
    _name_times(panels[-1], times, width)
    drawn.suptitle(title, fontsize=10)
    return drawn


def _name_times(axes: Axes, times: Sequence[float], width: int) -> None:
    centres = [(width + 1) * column + width / 2 for column in range(len(times))]
    axes.set_xticks(centres, [f"{time:.2g}" for time in times], fontsize=8)


def losses(model: DiffusionModel, noised: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return times spread over (0, 1] and the loss of each example (N, *event_shape) at its time, both (N,)."""
    draws = model.diffusion.draw(noised)
    t = draws.times(model.steps)
    parts = torch.arange(len(t)).split(CHUNK)
    loss = [
        model.diffusion.loss_at(noised[i], t[i], model.steps, draws.eps[i], None if y is None else y[i])
        for i in parts
    ]
    return t.cpu().double(), torch.cat(loss).cpu().double()


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
