"""Figures of probabilistic PCA: the likelihood, the spectrum and the loadings."""

from typing import Any

import torch
from matplotlib.axes import Axes
from pydantic import PositiveInt
from torch import Tensor

from latentlab.classical.ppca import PPCA
from latentlab.figures.classical.axes import BLUE, EXACT, ORANGE, curve, exact_line, label, row
from latentlab.figures.drawing import Data, Figure, figure


@figure
def likelihood(model: PPCA, data: Data) -> Figure:
    """Draw the log-likelihood by iteration, and the eigenvalues of the covariance."""
    drawn, (left, right) = row(2, 4.8, 3.9)
    draw_likelihood(left, model)
    draw_spectrum(right, model)
    return drawn


@figure
def loadings(model: PPCA, data: Data, max_images: PositiveInt = 20) -> Figure:
    """Draw the principal directions as images, the strongest first.

    In one channel, red is positive and blue is negative. In three channels, grey is zero.
    """
    images = principal_directions(model)[:max_images]
    columns = min(len(images), 10)
    rows = -(-len(images) // columns)
    drawn = Figure(figsize=(max(0.95 * columns, 4.0), 1.0 * rows + 0.8), layout="constrained")
    for index, axes in enumerate(drawn.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if index < len(images):
            axes.imshow(_pixels(images[index]), cmap="RdBu_r", vmin=-1, vmax=1)
    drawn.suptitle("principal directions, strongest first", fontsize=10)
    return drawn


def _pixels(image: Tensor) -> Any:
    return image[0].numpy() if len(image) == 1 else ((1 + image) / 2).movedim(0, -1).numpy()


def principal_directions(model: PPCA) -> Tensor:
    """The principal directions in the span of W, scaled to [-1, 1], (latent_dim, *x_shape)."""
    u, s, _ = torch.linalg.svd(model.w.cpu(), full_matrices=False)
    images = (u * s).T.unflatten(-1, model.x_shape).float()
    return images / images.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)


def draw_likelihood(axes: Axes, model: PPCA) -> None:
    """Draw the log-likelihood by iteration, and the maximum from the closed form as a line."""
    values = model.history.values["elbo"]
    curve(axes, values, name="EM" if model.em else "one step")
    if len(values) > 40:
        axes.set_xscale("symlog", linthresh=1)
    exact = float(model.exact_log_likelihood())
    exact_line(axes, exact, f"closed form, {exact:.2f}")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    label(axes, "log-likelihood, training set", "iteration", "nats per example")


def draw_spectrum(axes: Axes, model: PPCA) -> None:
    """Draw the eigenvalues of the covariance, and the noise that replaces those that are discarded."""
    values = torch.linalg.eigvalsh(model.cov).flip(0).clamp(min=0).cpu()
    kept, shown = model.latent_dim, min(len(values), 10 * model.latent_dim + 20)
    axes.semilogy(range(1, kept + 1), values[:kept], "o", color=BLUE, ms=4, label="kept")
    axes.semilogy(range(kept + 1, shown + 1), values[kept:shown], ".", color=EXACT, ms=4, label="discarded")
    axes.axhline(float(model.noise), color=ORANGE, lw=1.4, label=f"$s^2$ = {float(model.noise):.3g}")
    axes.legend(frameon=False, fontsize=9)
    label(axes, f"eigenvalues of the covariance, the first {shown} of {len(values)}", "number", "variance")
