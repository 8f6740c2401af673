"""Figures: functions of a model and data, such as `latents(model, data.whole_test_set())`."""

from collections.abc import Callable, Sequence
from typing import Any

from latentlab.figures.density import density
from latentlab.figures.diffusion import chains, denoising, guided_classes, loss_by_time, sampling_steps
from latentlab.figures.drawing import Figure, Table, TabledFigure, save
from latentlab.figures.geometry import check_geometry, volume
from latentlab.figures.images import (
    check_images,
    check_two,
    classes,
    clusters,
    frozen_layers,
    manifold,
    reconstructions,
    sample_means,
    samples,
)
from latentlab.figures.kl import layer_kl, usage
from latentlab.figures.latent_space import (
    check_umap,
    latents,
    latents_layers,
    latents_tsne,
    latents_umap,
)
from latentlab.figures.neighbours import check_samples, neighbours
from latentlab.figures.paths import check_real, interpolations, traversals

__all__ = [
    "Figure",
    "Table",
    "TabledFigure",
    "chains",
    "classes",
    "clusters",
    "denoising",
    "density",
    "frozen_layers",
    "guided_classes",
    "interpolations",
    "latents",
    "latents_layers",
    "latents_tsne",
    "latents_umap",
    "layer_kl",
    "loss_by_time",
    "manifold",
    "neighbours",
    "reconstructions",
    "sample_means",
    "samples",
    "sampling_steps",
    "save",
    "traversals",
    "usage",
    "volume",
]
# The figures by name. Those of NEEDS raise a UserError for a model that cannot have them.
DRAWN: dict[str, Callable[..., Any]] = {
    name: globals()[name] for name in __all__ if name[0].islower() and name != "save"
}
NEEDS: dict[str, Sequence[Callable[[Any], None]]] = {
    "interpolations": [check_images],
    "latents_umap": [check_umap],
    "manifold": [check_images, check_two],
    "neighbours": [check_images, check_samples],
    "reconstructions": [check_images],
    "sample_means": [check_images],
    "samples": [check_images],
    "traversals": [check_images, check_real],
    "volume": [check_geometry],
}
