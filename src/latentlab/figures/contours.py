"""Contours of the prior p(z) over at most two coordinates of the latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, MultivariateNormal

from latentlab.errors import UserError
from latentlab.models.base import GenerativeModel
from latentlab.models.vae import SingleLayer

MASSES = (0.25, 0.5, 0.75, 0.95)
WIDTHS = (0.6, 0.9, 1.2, 1.5)  # of the lines, the innermost last
CELLS = 160  # of the grid, along each axis
CHUNK = 500  # the draws of p(z) that are held in memory at a time
# The smoothing of a histogram of n draws in d dimensions, as a share of Scott's n^(-1 / (d + 4)) standard deviations. A
# prior has several modes, and the embeddings of t-SNE and UMAP have narrow ones.
SMOOTHING, SMOOTHING_OF_EMBEDDINGS = 0.75, 0.3
TAIL = 0.01  # the share of p(z) beyond each end of the grid
# Ellipses of more components would hide the points.
MOST_ELLIPSES = 20

Array = NDArray[Any]
Projection = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Density:
    """A density at the cells of a grid of d = 1 or 2 dimensions.

    Attributes:
        edges: the edges of the cells along each axis, d arrays (CELLS + 1,).
        values: the density, (CELLS,) or (CELLS, CELLS), the first axis first.
    """

    edges: Sequence[Array]
    values: Array

    @property
    def centres(self) -> list[Array]:
        return [(each[1:] + each[:-1]) / 2 for each in self.edges]

    @property
    def cell(self) -> float:
        """The volume of a cell."""
        return prod(float(each[1] - each[0]) for each in self.edges)

    def levels(self, masses: Sequence[float] = MASSES) -> dict[float, float]:
        """Return the densities above which there are these masses, by mass, in ascending order of the densities.

        Masses that the grid does not hold are left out, and so is the smaller of two masses with the same density.
        """
        ordered = np.sort(self.values, axis=None)[::-1]
        held = np.cumsum(ordered) * self.cell
        found = {float(ordered[np.searchsorted(held, mass)]): mass for mass in masses if mass < held[-1]}
        return {mass: level for level, mass in sorted(found.items()) if level > 0}

    def above(self, level: float) -> tuple[Array, ...]:
        """Return the centres along each axis and the values, cut to the cells around those above a level."""
        inside = np.argwhere(self.values >= level)
        cuts = [
            slice(max(low - 1, 0), high + 2) for low, high in zip(inside.min(0), inside.max(0), strict=True)
        ]
        centres = [each[cut] for each, cut in zip(self.centres, cuts, strict=True)]
        return *centres, self.values[tuple(cuts)]


@dataclass(frozen=True)
class Components:
    """The components of a mixture in the plane.

    Attributes:
        means: their means, (K, 2).
        covariances: their covariances, (K, 2, 2).
    """

    means: Tensor
    covariances: Tensor


@dataclass(frozen=True)
class PriorView:
    """p(z) over at most two coordinates, with the components of a mixture."""

    density: Density
    components: Components | None = None


def prior_view(model: GenerativeModel, place: Projection, points: Tensor, draws: int) -> PriorView | None:
    """Return p(z) over the coordinates of some points, or None for a model without p(z).

    The density of up to two latents is exact if the prior has one. Otherwise it is a smoothed histogram of draws.

    Args:
        model: the model.
        place: maps flat latents (M, D) to coordinates (M, d).
        points: coordinates that the grid must hold, (N, d).
        draws: the number of draws of p(z). 0 means no view.
    """
    drawn = prior_draws(model, draws, place)
    points = _finite(points)
    if drawn is None or not len(drawn) or not len(points):
        return None
    edges = grid(points, drawn)
    exact = isinstance(model, SingleLayer) and not model.discrete and model.latent_dim <= 2
    density = exact_density(model, edges) if exact else histogram(drawn, edges)  # type: ignore[arg-type]
    return PriorView(density, components(model, place) if points.shape[1] == 2 else None)


def prior_draws(model: GenerativeModel, n: int, place: Projection) -> Tensor | None:
    """Draw n latents z ~ p(z) and return their coordinates (n, d).

    Draws that are not finite are left out. Returns None for n = 0, for a model without p(z), and where q(z|x) only adds
    noise to x, so that latents are noisy images.
    """
    if not n or not model.learned_inference:
        return None
    try:
        parts = [place(model.sample_latents(min(CHUNK, n - start)).cpu()) for start in range(0, n, CHUNK)]
    except UserError:
        return None
    return _finite(torch.cat(parts))


def grid(points: Tensor, drawn: Tensor) -> list[Array]:
    """Return the edges of a grid that holds all points (N, d) and nearly all draws (M, d)."""
    ends = np.concatenate(
        [points.double().numpy(), np.quantile(drawn.double().numpy(), [TAIL, 1 - TAIL], axis=0)]
    )
    low, high = ends.min(0), ends.max(0)
    margin = 0.1 * (high - low) + 1e-6
    return [
        np.linspace(start, end, CELLS + 1) for start, end in zip(low - margin, high + margin, strict=True)
    ]


def _finite(points: Tensor) -> Tensor:
    return points[points.isfinite().all(1)]


def exact_density(model: SingleLayer, edges: Sequence[Array]) -> Density:
    """Return the density of up to two latents at the centres of the cells."""
    like = model.sample_latents(1)
    centres = [torch.from_numpy((each[1:] + each[:-1]) / 2).to(like) for each in edges]
    z = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, -2)
    values = model.prior().log_prob(z.unflatten(-1, model.z_shape)).exp()
    return Density(edges, values.nan_to_num().view([CELLS] * len(edges)).double().cpu().numpy())


def histogram(drawn: Tensor, edges: Sequence[Array], smoothing: float = SMOOTHING) -> Density:
    """Return a smoothed histogram of draws (M, d)."""
    counts, _ = np.histogramdd(drawn.double().numpy(), edges)
    scale = smoothing * len(drawn) ** (-1 / (len(edges) + 4)) * drawn.double().std(0).numpy()
    widths = [each[1] - each[0] for each in edges]
    smooth = gaussian_filter(counts, scale / widths, mode="constant")
    return Density(edges, smooth / (len(drawn) * prod(widths)))


def components(model: GenerativeModel, place: Projection) -> Components | None:
    """Return the components of a mixture of real latents in the plane, or None for another prior."""
    if not isinstance(model, SingleLayer) or model.discrete:
        return None
    prior = model.prior()
    if not isinstance(prior, MixtureSameFamily):
        return None
    parts = prior.component_distribution
    means = parts.mean.flatten(1).cpu()
    origin = place(torch.zeros_like(means[:1]))
    axes = place(torch.eye(means.shape[1]).to(means)) - origin  # (D, 2)
    placed, covariances = place(means), axes.T @ _covariances(parts).cpu().to(axes) @ axes
    finite = placed.isfinite().all(1) & covariances.isfinite().all(2).all(1)
    return Components(placed[finite], covariances[finite])


def _covariances(parts: Distribution) -> Tensor:
    if isinstance(parts, MultivariateNormal):
        return parts.covariance_matrix
    return torch.diag_embed(parts.variance.flatten(1))


def draw_prior(axes: Axes, view: PriorView) -> None:
    """Draw the contours of p(z), or its density as a line over one latent."""
    levels = list(view.density.levels().values())
    if view.density.values.ndim == 1:
        axes.plot(view.density.centres[0], view.density.values, color="black", linewidth=1.6, label="p(z)")
        return
    if levels:
        x, y, values = view.density.above(levels[0])
        widths = WIDTHS[-len(levels) :]
        axes.contour(x, y, values.T, levels, colors="black", linewidths=widths, zorder=3)
    if view.components is not None:
        _draw_components(axes, view.components)


def _draw_components(axes: Axes, components: Components) -> None:
    x, y = components.means.T.numpy()
    axes.scatter(x, y, s=34, marker="X", color="black", edgecolors="white", linewidths=0.6, zorder=5)
    for mean, covariance in zip(components.means, components.covariances, strict=True):
        if len(components.means) <= MOST_ELLIPSES:
            axes.add_patch(_ellipse(mean, covariance))


def _ellipse(mean: Tensor, covariance: Tensor) -> Ellipse:
    """Return the ellipse of one standard deviation."""
    variances, axes = torch.linalg.eigh(covariance.double())
    width, height = (2 * variances.clamp(min=0).sqrt()).tolist()
    angle = torch.rad2deg(torch.atan2(axes[1, 0], axes[0, 0])).item()
    return Ellipse(
        tuple(mean.tolist()), width, height, angle=angle, fill=False, linestyle="--", linewidth=0.8, zorder=4
    )


def words(view: PriorView | None) -> str:
    """Return the words about p(z) in a title."""
    return "; ".join(filter(None, [lines(view), crosses(view)]))


def lines(view: PriorView | None) -> str:
    """Return the words about the contours that are drawn."""
    if view is None or view.density.values.ndim == 1:
        return ""
    shares = ", ".join(f"{mass:.0%}"[:-1] for mass in sorted(view.density.levels()))
    return f"lines hold {shares} % of p(z)" if shares else ""


def crosses(view: PriorView | None) -> str:
    """Return the words about the components of a mixture."""
    return "" if view is None or view.components is None else "crosses are components of p(z)"
