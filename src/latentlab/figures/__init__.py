"""Figures of a model and data."""

from latentlab.figures.classes import ClassSamples
from latentlab.figures.denoising import DenoisingChain, SamplingSteps
from latentlab.figures.drawing import Drawing, FigureCallback, Table
from latentlab.figures.frozen_layers import FrozenLayers
from latentlab.figures.latents import Latents
from latentlab.figures.layers import LayerKL, LayerLatents
from latentlab.figures.loss_by_time import LossByTime
from latentlab.figures.manifold import Manifold
from latentlab.figures.reconstructions import Reconstructions
from latentlab.figures.samples import Samples
from latentlab.figures.usage import LatentUsage

__all__ = [
    "ClassSamples",
    "DenoisingChain",
    "Drawing",
    "FigureCallback",
    "FrozenLayers",
    "LatentUsage",
    "Latents",
    "LayerKL",
    "LayerLatents",
    "LossByTime",
    "Manifold",
    "Reconstructions",
    "Samples",
    "SamplingSteps",
    "Table",
]
