"""KL divergences by latent and by layer, and the latents that a model uses."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from latentlab.evaluation import ACTIVE_VARIANCE, Tally, kl_per_latent, terms
from latentlab.figures.drawing import Data, Figure, Table, TabledFigure, batches, figure, plain
from latentlab.models.base import GenerativeModel
from latentlab.models.hierarchy import Hierarchy
from latentlab.run.metrics import read_rows

FLOOR = 1e-6  # of the drawn variances


@figure
def usage(model: GenerativeModel, data: Data) -> TabledFigure:
    r"""Draw $KL(q(z_d|x)\,\|\,p(z_d))$ of each latent and $\mathrm{Var}_x(E_{q(z|x)}[z_d])$, largest first.

    A layer has a panel of KLs if its latents are independent under q and p and their KL has a closed form. Under a
    mixture or a flow as the prior, the KL is not a sum over latents.
    """
    observed = [model.observe(batch) for batch in batches(model, data)]
    drawn = [(kl_per_latent(model, x), model.posterior_mean(x).cpu()) for x in observed]
    parts, means = zip(*drawn, strict=True)
    kls = {layer: torch.cat([part[layer] for part in parts]).double().mean(0) for layer in parts[0]}
    variances = torch.cat(means).double().var(0)
    tables = {"posterior_mean_variance": Table(["latent", "variance"], _rows(variances))}
    if kls:
        tables["kl_per_latent"] = Table(["latent", "kl"], _rows(torch.cat(list(kls.values()))))
    return usage_bars(kls, variances, tables)


def usage_bars(
    kls: dict[int, Tensor], variances: Tensor, tables: dict[str, Table] | None = None
) -> TabledFigure:
    """Draw a panel of the KLs (D,) of each numbered layer and a panel of the variances, each sorted."""
    drawn = TabledFigure(tables or {}, figsize=(4.6 * (len(kls) + 1), 3.6))
    *first, last = drawn.subplots(1, len(kls) + 1, squeeze=False)[0]
    for axes, (number, kl) in zip(first, kls.items(), strict=True):
        which = "" if list(kls) == [1] else f", layer {number}"
        _sorted_bars(axes, kl, f"KL{which}: {kl.sum():.2f} nats in all")
        axes.set_ylabel("KL of a latent, nats")
    active = f"active units: {int((variances > ACTIVE_VARIANCE).sum())} of {len(variances)}"
    _sorted_bars(last, variances.clamp(min=FLOOR), active)
    last.set_yscale("log")
    last.axhline(ACTIVE_VARIANCE, color="0.2", linewidth=0.8, linestyle="--")
    last.set_ylabel("variance of the posterior mean")
    return drawn


def kl_by_unit(units: Path) -> Figure:
    """Draw the KL of each latent and the number of active units by epoch, from a units.csv.

    Each layer has a map with a row for each latent, the latent with the largest KL at the last epoch first.

    Raises:
        UserError: if the file is damaged.
    """
    # The last row of each epoch.
    rows = {int(row["epoch"]) + 1: row for row in read_rows(units) if row["epoch"]}
    epochs, active = list(rows), [float(row["active_units"]) for row in rows.values()]
    maps = _unit_maps(list(rows.values()))
    drawn = Figure(figsize=(6.4, 1.8 + min(2.6 * len(maps), 16.0)))
    heights = [1.0, *(2.0 for _ in maps)]
    # The second column is for the colour bars, so that the panels have one width.
    panels = drawn.subplots(len(heights), 2, squeeze=False, height_ratios=heights, width_ratios=[30, 1])
    first = panels[0, 0]
    panels[0, 1].set_axis_off()
    first.plot(epochs, active, marker="o" if len(epochs) == 1 else "")
    first.set_ylim(bottom=0)
    first.set_ylabel("active units")
    plain(first)
    for (axes, bar), (number, kls) in zip(panels[1:], maps.items(), strict=True):
        shown = _unit_map(axes, epochs, kls)
        axes.set_ylabel("latents" if list(maps) == ["1"] else f"latents of layer {number}")
        drawn.colorbar(shown, cax=bar, label="KL, nats")
    for axes in panels[:, 0]:
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1, 0].set_xlabel("epoch")
    return drawn


def _unit_maps(rows: Sequence[Mapping[str, str]]) -> dict[str, Tensor]:
    # The KL of each latent of a layer, (latents, epochs), by the layer's number.
    layers: dict[str, list[list[float]]] = {}
    for name in rows[0]:
        if name.startswith("kl_"):
            values = [float(row[name] or "nan") for row in rows]
            layers.setdefault(name.split("_")[1], []).append(values)
    return {number: torch.tensor(values) for number, values in layers.items()}


def _unit_map(axes: Axes, epochs: Sequence[int], kls: Tensor) -> QuadMesh:
    ordered = kls[kls[:, -1].argsort(descending=True)].clamp(min=FLOOR)
    colours = LogNorm(ACTIVE_VARIANCE, max(float(ordered.nan_to_num().max()), 1.0))
    edges = np.append(np.array(epochs) - 0.5, epochs[-1] + 0.5)
    axes.set_ylim(len(ordered) + 0.5, 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return axes.pcolormesh(
        edges, np.arange(len(ordered) + 1) + 0.5, ordered.numpy(), norm=colours, cmap="viridis"
    )


@figure
def layer_kl(model: Hierarchy, data: Data) -> Figure:
    """Draw the KL of each layer, averaged over the data, in nats."""
    tally = Tally()
    for found in terms(model, data, test=False):  # with the draws of the reported test score
        tally.add(found)
    means = tally.means(tally.count)
    return layer_bars([means[f"kl_{level + 1}"] for level in range(len(model.z_shapes))], model.layer_name)


def layer_bars(kls: Sequence[float], layer_name: str) -> Figure:
    """Draw a bar for each layer, from the one next to the data upwards."""
    drawn = Figure(figsize=(min(3.2 + 0.35 * len(kls), 9.0), 3.6))
    axes = drawn.add_subplot()
    axes.bar(range(1, len(kls) + 1), kls, width=0.8)
    if len(kls) <= 12:
        for layer, kl in enumerate(kls, start=1):
            axes.text(layer, max(kl, 0.0), f"{kl:.1f}", ha="center", va="bottom", fontsize=8)
    axes.axhline(0, color="0.2", linewidth=0.8)
    axes.set_xlim(0.3, len(kls) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"{layer_name}, 1 next to the data")
    axes.set_ylabel("KL, nats")
    axes.set_title(f"KL of each layer, test set: {sum(kls):.2f} nats in all", fontsize=10)
    plain(axes)
    return drawn


def _sorted_bars(axes: Axes, values: Tensor, title: str) -> None:
    axes.bar(range(1, len(values) + 1), values.sort(descending=True).values.tolist(), width=0.9)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("latents, largest first")
    plain(axes)


def _rows(values: Tensor) -> list[list[float]]:
    return [[index, value] for index, value in enumerate(values.tolist(), start=1)]
