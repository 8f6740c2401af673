"""Figures: functions of a model and data, such as `latents(model, data.whole_test_set())`."""

from latentlab.figures.diffusion import denoising, loss_by_time, sampling_steps
from latentlab.figures.drawing import Figure, Table, TabledFigure, save
from latentlab.figures.images import (
    classes,
    frozen_layers,
    manifold,
    reconstructions,
    sample_means,
    samples,
)
from latentlab.figures.kl import layer_kl, usage
from latentlab.figures.latent_space import latents, latents_layers, latents_tsne, latents_umap

__all__ = [
    "Figure",
    "Table",
    "TabledFigure",
    "classes",
    "denoising",
    "frozen_layers",
    "latents",
    "latents_layers",
    "latents_tsne",
    "latents_umap",
    "layer_kl",
    "loss_by_time",
    "manifold",
    "reconstructions",
    "sample_means",
    "samples",
    "sampling_steps",
    "save",
    "usage",
]
