"""The geometry of two latents: the volume of the metric, and geodesics over it."""

import torch
from matplotlib.axes import Axes

from latentlab.errors import UserError
from latentlab.figures.drawing import Data, Figure, figure
from latentlab.figures.latent_space import encoded, legend, scatter
from latentlab.geometry import Geodesics, decoder_means
from latentlab.geometry import volume as volume_of
from latentlab.models.base import GenerativeModel, device_of

CELLS = 40  # in a row and a column of the map of the volume
MOST_POINTS = 4000


@figure
def volume(model: GenerativeModel, data: Data) -> Figure:
    r"""Draw the logarithm of the volume $\sqrt{\det G(z)}$ under z ~ q(z|x).

    Where the volume is large, a small step in the latent space is a large change of the image.
    """
    drawn, _ = over_volume(model, data)
    return drawn


@figure
def geodesics(model: GenerativeModel, data: Data, found: Geodesics) -> Figure:
    """Draw geodesics and the straight lines between their ends over the volume and z ~ q(z|x)."""
    drawn, axes = over_volume(model, data)
    for curve in found.curves.cpu():
        ends = curve[[0, -1]]
        axes.plot(*ends.T.tolist(), color="white", linestyle=":", linewidth=1)
        axes.plot(*curve.T.tolist(), color="black", linewidth=1.3)
        axes.plot(*ends.T.tolist(), color="black", linestyle="none", marker="o", markersize=3)
    axes.set_title("geodesics (black) and straight lines (dotted)", fontsize=10)
    return drawn


def over_volume(model: GenerativeModel, data: Data) -> tuple[Figure, Axes]:
    """Draw the volume under latents, and return the axes too.

    Raises:
        UserError: for a model without exactly two latents or without a decoder mean.
    """
    check_geometry(model)
    z, y = encoded(model, data, MOST_POINTS)
    low, high = z.min(0).values, z.max(0).values
    margin = 0.06 * (high - low)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    across, up = torch.linspace(left, right, CELLS), torch.linspace(bottom, top, CELLS)
    places = torch.cartesian_prod(up, across).flip(1).to(device_of(model))
    height = volume_of(decoder_means(model), places).log10().view(CELLS, CELLS)
    drawn = Figure(figsize=(7.2, 5.4))
    axes = drawn.add_subplot()
    scatter(axes, z, y, ["z_1", "z_2"])
    shade = axes.pcolormesh(across.tolist(), up.tolist(), height.tolist(), cmap="Blues", zorder=0)
    drawn.colorbar(shade, ax=axes, label=r"$\log_{10} \sqrt{\det G(z)}$", location="left", use_gridspec=False)
    axes.set_title("volume of the pull-back metric", fontsize=10)
    legend(drawn, y)
    return drawn, axes


def check_geometry(model: GenerativeModel) -> None:
    """Check that a model has two real latents with a decoder mean.

    Raises:
        UserError: if it has not.
    """
    decoder_means(model)
    if model.latent_dim != 2:
        raise UserError(
            f"volume draws a plane of two latents, and this model has {model.latent_dim}: train with model.latent_dim=2"
        )
