"""A correlated Gaussian and its two factorised approximations."""

from pytorch_lightning import Trainer
from torch import nn

from latentlab.classical.mean_field import MeanFieldGaussian
from latentlab.figures.classical.callback import Drawing, FigureCallback
from latentlab.figures.classical.panels import BLUE, EXACT, GREEN, ORANGE, ellipse, label, panels, trace

FLOOR = 1e-14


class MeanFieldFigures(FigureCallback):
    """Draws ellipses.png.

    Args:
        every_n_epochs: the number of training epochs between two figures.
    """

    def draw(self, trainer: Trainer, model: nn.Module) -> Drawing:
        """95 % ellipses of the first two variables with the path of the means, and the divergence by iteration."""
        assert isinstance(model, MeanFieldGaussian)
        figure, (left, right) = panels(2, 5.0, 4.6)
        found, values = model.divergences(), model.history.values
        cov, styles = model.cov[:2, :2], {"lw": 1.8}
        rows = {
            "p": (model.mean[:2], cov, EXACT, "p, correlated"),
            "q": (model.m[:2], model.v[:2].diag(), BLUE, _title("min KL(q || p)", found, "q")),
            "marginals": (
                model.mean[:2],
                cov.diagonal().diag(),
                ORANGE,
                _title("min KL(p || q)", found, "marginals"),
            ),
        }
        for mean, shape, colour, name in rows.values():
            ellipse(left, mean, shape, colour, **styles)
            left.plot([], [], color=colour, lw=1.8, label=name)
        left.plot(values["m_1"], values["m_2"], ".-", color=GREEN, lw=0.9, ms=4, label="means of q by sweep")
        reach = max(3.2, 1.1 * abs(model.offset)) * model.scale
        left.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        figure.legend(
            *left.get_legend_handles_labels(),
            frameon=False,
            fontsize=8.5,
            loc="outside upper center",
            ncols=2,
        )
        label(left, f"95 % ellipses, D = {len(model.m)}, correlation {model.correlation:g}", "$x_1$", "$x_2$")
        right.set_yscale("log")
        trace(right, [max(values["elbo"][-1] - value, FLOOR) for value in values["elbo"]], BLUE)
        right.set_ylim(bottom=2 * FLOOR)
        label(
            right,
            f"coordinate ascent on -KL(q || p), up to {values['elbo'][-1]:.4f}",
            "sweep",
            "nats to the end",
        )
        return Drawing({"ellipses": figure})


def _title(name: str, found: dict[str, float], key: str) -> str:
    forward, backward = found[f"kl_q_p_{key}"], found[f"kl_p_q_{key}"]
    return f"{name}: KL(q||p) {forward:.3f}, KL(p||q) {backward:.3f}"
