"""Which latents a model uses: the KL of each, and how far its posterior mean moves with x."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from latentlab.figures.data import batches
from latentlab.figures.drawing import Drawing, FigureCallback, Table
from latentlab.models.base import GenerativeModel
from latentlab.trace import Layer, Traced

# Above it a latent counts as active (Burda et al. 2016, section 5).
ACTIVE = 0.01
FLOOR = 1e-6  # of the drawn variances


class LatentUsage(FigureCallback):
    r"""Draws usage.png: $KL(q(z_d|x)\,\|\,p(z_d))$ of each latent, in nats, and $\mathrm{Var}_x(E_{q(z|x)}[z_d])$.

    Both over the test set, largest first. The KL is drawn for layers whose q and p have independent latents and a
    closed form; under a mixture or a flow as prior it has no parts.

    Args:
        every_n_epochs: the number of training epochs between two figures.
    """

    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """The bars, and the numbers as tables."""
        drawn = [(kl_per_latent(model, x), model.posterior_mean(x).cpu()) for x, _ in batches(trainer)]
        parts, means = zip(*drawn, strict=True)
        kls = [torch.cat(layer).double().mean(0) for layer in zip(*parts, strict=True)]
        variances = torch.cat(means).double().var(0)
        tables = {"posterior_mean_variance": Table(["latent", "variance"], _rows(variances))}
        if kls:
            tables["kl_per_latent"] = Table(["latent", "kl"], _rows(torch.cat(kls)))
        x, _ = next(batches(trainer))
        numbers = [number for number, _ in _numbered_parts(model, x)]
        return Drawing({"usage": bars(kls, variances, numbers)}, tables)


def kl_per_latent(model: GenerativeModel, x: object) -> list[Tensor]:
    """The KL of each latent for each example, (B, D) for every layer that has them."""
    return [kl for _, kl in _numbered_parts(model, x)]


def _numbered_parts(model: GenerativeModel, x: object) -> list[tuple[int, Tensor]]:
    layers: Sequence[Layer] = model(x).layers if isinstance(model, Traced) else ()
    return [(number, kl.cpu()) for number, layer in enumerate(layers, start=1) for kl in _parts(layer)]


def _parts(layer: Layer) -> list[Tensor]:
    q, p = layer.q, layer.p
    if layer.coupled or not (isinstance(q, Independent) and isinstance(p, Independent)):
        return []
    try:
        kl = kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:
        return []
    return [kl.reshape(-1, *kl.shape[-q.reinterpreted_batch_ndims :]).flatten(1)]


def bars(kls: Sequence[Tensor], variances: Tensor, numbers: Sequence[int] | None = None) -> Figure:
    """A panel of KLs for each layer that has them, by their numbers, and one of the variances, each sorted."""
    numbers = range(1, len(kls) + 1) if numbers is None else numbers
    figure = Figure(figsize=(4.6 * (len(kls) + 1), 3.6))
    *first, last = figure.subplots(1, len(kls) + 1, squeeze=False)[0]
    for number, axes, kl in zip(numbers, first, kls, strict=True):
        which = "" if list(numbers) == [1] else f", layer {number}"
        _bars(axes, kl, f"KL{which}: {kl.sum():.2f} nats in all")
        axes.set_ylabel("KL of a latent, nats")
    _bars(
        last,
        variances.clamp(min=FLOOR),
        f"active units: {int((variances > ACTIVE).sum())} of {len(variances)}",
    )
    last.set_yscale("log")
    last.axhline(ACTIVE, color="0.2", linewidth=0.8, linestyle="--")
    last.set_ylabel("variance of the posterior mean")
    return figure


def _bars(axes: Axes, values: Tensor, title: str) -> None:
    axes.bar(range(1, len(values) + 1), values.sort(descending=True).values.tolist(), width=0.9)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("latents, largest first")
    axes.spines[["top", "right"]].set_visible(False)


def _rows(values: Tensor) -> list[list[float]]:
    return [[index, value] for index, value in enumerate(values.tolist(), start=1)]
