"""The density of a model of points in the plane, beside its samples and the data."""

import torch
from matplotlib.axes import Axes
from pydantic import PositiveInt
from scipy.ndimage import gaussian_filter
from torch import Tensor

from latentlab.evaluation import log_likelihood
from latentlab.figures.drawing import Data, Figure, device_of, figure, spread
from latentlab.models.base import GenerativeModel
from latentlab.models.flow import Flow

CHUNK = 4000
SAMPLES = 20_000
MARGIN = 0.3  # of the plane around the data, as a share of its width


@figure
def density(
    model: GenerativeModel,
    data: Data,
    points: PositiveInt = 2000,
    cells: PositiveInt = 120,
    draws: PositiveInt = 20,
) -> Figure | None:
    """Draw test points, samples of the model, and its density on a grid.

    The density of a flow is exact. For a model with importance weights it is their mean, and for a diffusion that of
    many samples, smoothed over a cell. Data that are not points in the plane have no figure.

    Args:
        model: the model.
        data: the points.
        points: the number of points and of samples.
        cells: the number of cells of the grid along each axis.
        draws: the draws of the latents for each cell of a model with importance weights.
    """
    if tuple(model.x_shape) != (2,):
        return None
    x = spread(model, data, points).x.cpu()
    drawn = Figure(figsize=(11, 3.9))
    panels = drawn.subplots(1, 3, sharex=True, sharey=True)
    middle, reach = (x.amin(0) + x.amax(0)) / 2, (0.5 + MARGIN) * (x.amax(0) - x.amin(0)).max()
    _scatter(panels[0], x, "test points")
    _scatter(panels[1], model.generate(points).cpu(), "samples")
    edges = [torch.linspace(float(c - reach), float(c + reach), cells + 1) for c in middle]
    known = model.weighted or isinstance(model, Flow)
    values = on_grid(model, edges, draws).exp() if known else smoothed(model, edges)
    panels[2].pcolormesh(*(each.numpy() for each in edges), values.T.numpy(), cmap="magma", rasterized=True)
    panels[2].set_title("density" if known else f"density of {SAMPLES:,} samples, smoothed", fontsize=10)
    for axes in panels:
        axes.set_xlabel("$x_1$")
        axes.set_aspect("equal")
    panels[0].set_ylabel("$x_2$")
    panels[0].set_xlim(float(edges[0][0]), float(edges[0][-1]))
    panels[0].set_ylim(float(edges[1][0]), float(edges[1][-1]))
    return drawn


def on_grid(model: GenerativeModel, edges: list[Tensor], draws: int) -> Tensor:
    """Return the log-density at the centres of cells, the first axis first."""
    centres = torch.cartesian_prod(*((each[1:] + each[:-1]) / 2 for each in edges)).to(device_of(model))
    values = torch.cat([_log_density(model, part, draws) for part in centres.split(CHUNK)])
    return values.cpu().double().view(len(edges[0]) - 1, -1)


def _log_density(model: GenerativeModel, x: Tensor, draws: int) -> Tensor:
    if model.weighted:
        return log_likelihood(model, x, draws, draws)
    return model.terms(x)[model.bound]


def smoothed(model: GenerativeModel, edges: list[Tensor]) -> Tensor:
    """Return the density of samples of a model in cells, the first axis first."""
    drawn = torch.cat([model.generate(CHUNK).cpu() for _ in range(SAMPLES // CHUNK)])
    counts = torch.histogramdd(drawn.double(), [each.double() for each in edges]).hist / SAMPLES
    area = float((edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0]))
    return torch.from_numpy(gaussian_filter(counts.numpy(), 1.0)) / area


def _scatter(axes: Axes, x: Tensor, title: str) -> None:
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=3, alpha=0.5, linewidths=0)
    axes.set_title(title, fontsize=10)
