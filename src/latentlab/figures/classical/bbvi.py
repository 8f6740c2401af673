"""Black-box inference: ELBO and means by iteration with the exact values, and the variance of the gradient."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from pytorch_lightning import Trainer
from torch import nn

from latentlab.classical.bbvi import NAMES
from latentlab.classical.normal_gamma import NormalGammaInference
from latentlab.figures.classical.callback import Drawing, FigureCallback
from latentlab.figures.classical.normal_gamma import draw_contours
from latentlab.figures.classical.panels import COLOURS, exact_line, label, panels, trace

SYMBOLS = dict(zip(NAMES, ("$m$", r"$\log s$", r"$\log a$", r"$\log b$"), strict=True))


class BBVIFigures(FigureCallback):
    """Draws path.png, variance.png and posterior.png.

    Args:
        every_n_epochs: the number of training epochs between two figures.
    """

    def draw(self, trainer: Trainer, model: nn.Module) -> Drawing:
        """The three figures."""
        assert isinstance(model, NormalGammaInference)
        path, axes = panels(3, 4.0, 3.6)
        draw_path(axes, model)
        variance, (variance_axes,) = panels(1, 5.6, 4.0)
        draw_variance(variance_axes, model.history.values)
        posterior, (contours,) = panels(1, 4.8, 4.2)
        draw_contours(contours, model)
        return Drawing({"path": path, "variance": variance, "posterior": posterior})


def draw_path(axes: Sequence[Axes], model: NormalGammaInference) -> None:
    """ELBO, E[mu] and E[tau] by iteration; the range of the ELBO leaves out the way from the start."""
    values, exact = model.history.values, model.exact().moments()
    evidence = float(model.prior.log_evidence(model.data))
    names = {"elbo": "ELBO", "mean_mu": r"$E_q[\mu]$", "mean_tau": r"$E_q[\tau]$"}
    lines = {"elbo": evidence, "mean_mu": float(exact.mean_mu), "mean_tau": float(exact.mean_tau)}
    for each, (name, title) in zip(axes, names.items(), strict=True):
        trace(each, values[name], width=0.9)
        exact_line(each, lines[name], "log evidence" if name == "elbo" else "exact")
        each.legend(frameon=False, fontsize=9, loc="lower right")
        label(each, title, "iteration", "nats" if name == "elbo" else "")
    late = values["elbo"][len(values["elbo"]) // 10 :]
    axes[0].set_ylim(min(late) - 0.5, evidence + 0.1 * (evidence - min(late)) + 0.1)


def draw_variance(axes: Axes, values: dict[str, list[float]], window: int = 50) -> None:
    """The estimated variance of each component of the gradient, averaged over `window` iterations."""
    for colour, name in zip(COLOURS, NAMES, strict=False):
        raw = np.asarray(values[f"variance_{name}"][1:])
        size = min(window, len(raw))
        axes.semilogy(
            np.convolve(raw, np.ones(size) / size, "valid"), color=colour, lw=1.3, label=SYMBOLS[name]
        )
    axes.legend(frameon=False, fontsize=9, ncols=2)
    label(axes, f"variance of the gradient, means of {window} iterations", "iteration", "variance")
