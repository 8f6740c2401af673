"""Probabilistic PCA: the likelihood by iteration, the spectrum with the noise, and the loadings as images."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from torch import Tensor, nn

from latentlab.classical.ppca import PPCA
from latentlab.figures.classical.callback import Drawing, FigureCallback
from latentlab.figures.classical.panels import BLUE, EXACT, ORANGE, exact_line, label, panels, trace

MAX_IMAGES = 20


class PPCAFigures(FigureCallback):
    """Draws likelihood.png and loadings.png.

    Args:
        every_n_epochs: the number of training epochs between two figures.
    """

    def draw(self, trainer: Trainer, model: nn.Module) -> Drawing:
        """The likelihood and the spectrum side by side, and the loadings."""
        assert isinstance(model, PPCA)
        figure, (left, right) = panels(2, 4.8, 3.9)
        draw_likelihood(left, model)
        draw_spectrum(right, model)
        return Drawing({"likelihood": figure, "loadings": loadings(model.w, model.x_shape)})


def draw_likelihood(axes: Axes, model: PPCA) -> None:
    """The log-likelihood by iteration, with the closed form's as a line."""
    values = model.history.values["elbo"]
    exact = float(model.exact_log_likelihood())
    trace(axes, values, name="EM" if model.em else "one step")
    if len(values) > 40:
        axes.set_xscale("symlog", linthresh=1)
    exact_line(axes, exact, f"closed form, {exact:.2f}")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    label(axes, "log-likelihood, training set", "iteration", "nats per example")


def draw_spectrum(axes: Axes, model: PPCA) -> None:
    """The eigenvalues of the covariance; those that the model keeps, and the noise in place of the others."""
    values = torch.linalg.eigvalsh(model.cov).flip(0).clamp(min=0).cpu()
    kept, shown = model.latent_dim, min(len(values), 10 * model.latent_dim + 20)
    axes.semilogy(range(1, kept + 1), values[:kept], "o", color=BLUE, ms=4, label="kept")
    axes.semilogy(range(kept + 1, shown + 1), values[kept:shown], ".", color=EXACT, ms=4, label="discarded")
    axes.axhline(float(model.noise), color=ORANGE, lw=1.4, label=f"$s^2$ = {float(model.noise):.3g}")
    axes.legend(frameon=False, fontsize=9)
    label(axes, f"eigenvalues of the covariance, the first {shown} of {len(values)}", "number", "variance")


def loadings(w: Tensor, x_shape: tuple[int, ...]) -> Figure:
    """The principal directions within the span of W (D, q) as images, strongest first; red positive, blue negative."""
    u, s, _ = torch.linalg.svd(w.cpu(), full_matrices=False)
    images = (u * s)[:, :MAX_IMAGES].T.unflatten(-1, x_shape).float()
    images = images / images.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    columns = min(len(images), 10)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(max(0.95 * columns, 4.0), 1.0 * rows + 0.8), layout="constrained")
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if index < len(images):
            axes.imshow(images[index, 0].numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    figure.suptitle("principal directions, strongest first", fontsize=10)
    return figure
