"""The figure of a correlated Gaussian and its two factorised approximations."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.distributions import MultivariateNormal

from latentlab.classical.mean_field import MeanFieldGaussian
from latentlab.figures.classical.axes import BLUE, EXACT, GREEN, ORANGE, curve, ellipse, label, row
from latentlab.figures.drawing import Data, figure

FLOOR = 1e-14


@figure
def ellipses(model: MeanFieldGaussian, data: Data) -> Figure:
    """Draw 95 % ellipses of the first two variables, and the convergence of the ELBO."""
    drawn, (left, right) = row(2, 5.0, 4.6)
    draw_ellipses(left, model)
    entries = left.get_legend_handles_labels()
    drawn.legend(*entries, frameon=False, fontsize=8.5, loc="outside upper center", ncols=2)
    draw_convergence(right, model.history.values["elbo"])
    return drawn


def draw_ellipses(axes: Axes, model: MeanFieldGaussian) -> None:
    """Draw p and both approximations, and the path of q's means."""
    draw_normal(axes, model.p(), EXACT, "p, correlated")
    draw_normal(axes, model.q(), BLUE, f"min KL(q || p): {divergences(model, 'q')}")
    draw_normal(axes, model.marginals(), ORANGE, f"min KL(p || q): {divergences(model, 'marginals')}")
    values = model.history.values
    axes.plot(values["m_1"], values["m_2"], ".-", color=GREEN, lw=0.9, ms=4, label="means of q by sweep")
    reach = max(3.2, 1.1 * abs(model.offset)) * model.scale
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    label(axes, f"95 % ellipses, D = {len(model.m)}, correlation {model.correlation:g}", "$x_1$", "$x_2$")


def draw_normal(axes: Axes, normal: MultivariateNormal, colour: str, name: str) -> None:
    """Draw the ellipse of a normal's first two variables."""
    ellipse(axes, normal.mean[:2], normal.covariance_matrix[:2, :2], colour, name=name)


def divergences(model: MeanFieldGaussian, name: str) -> str:
    """Both divergences of an approximation as text."""
    found = model.divergences()
    return f"KL(q||p) {found[f'kl_q_p_{name}']:.3f}, KL(p||q) {found[f'kl_p_q_{name}']:.3f}"


def draw_convergence(axes: Axes, elbo: list[float]) -> None:
    """Draw the distance of the ELBO from its last value."""
    axes.set_yscale("log")
    curve(axes, [max(elbo[-1] - value, FLOOR) for value in elbo])
    axes.set_ylim(bottom=2 * FLOOR)
    label(axes, f"coordinate ascent on -KL(q || p), up to {elbo[-1]:.4f}", "sweep", "nats to the end")
