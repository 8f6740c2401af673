"""What happens beside training: figures, progress, timing, checkpoints."""

from latentlab.callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from latentlab.callbacks.classes import ClassSamples
from latentlab.callbacks.denoising import DenoisingChain, SamplingSteps
from latentlab.callbacks.ema import EMA
from latentlab.callbacks.figure import Drawing, FigureCallback, Table
from latentlab.callbacks.frozen_layers import FrozenLayers
from latentlab.callbacks.gradient_skip import GradientSkip
from latentlab.callbacks.gradient_variance import GradientVariance
from latentlab.callbacks.latents import Latents
from latentlab.callbacks.layers import LayerKL, LayerLatents
from latentlab.callbacks.loss_by_time import LossByTime
from latentlab.callbacks.manifold import Manifold
from latentlab.callbacks.progress import Progress
from latentlab.callbacks.reconstructions import Reconstructions
from latentlab.callbacks.resume import ResumeState
from latentlab.callbacks.samples import Samples
from latentlab.callbacks.signals import OwnSignals
from latentlab.callbacks.timing import Timing
from latentlab.callbacks.usage import LatentUsage

__all__ = [
    "EMA",
    "BestCheckpoint",
    "ClassSamples",
    "DenoisingChain",
    "Drawing",
    "FigureCallback",
    "FrozenLayers",
    "GradientSkip",
    "GradientVariance",
    "LastCheckpoint",
    "LatentUsage",
    "Latents",
    "LayerKL",
    "LayerLatents",
    "LossByTime",
    "Manifold",
    "OwnSignals",
    "Progress",
    "Reconstructions",
    "ResumeState",
    "Samples",
    "SamplingSteps",
    "Table",
    "Timing",
]
