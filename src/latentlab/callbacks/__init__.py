"""What happens beside training: figures, progress, timing, checkpoints."""

from latentlab.callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from latentlab.callbacks.classes import ClassSamples
from latentlab.callbacks.figure import Drawing, FigureCallback, Table
from latentlab.callbacks.gradient_variance import GradientVariance
from latentlab.callbacks.latents import Latents
from latentlab.callbacks.manifold import Manifold
from latentlab.callbacks.progress import Progress
from latentlab.callbacks.reconstructions import Reconstructions
from latentlab.callbacks.resume import ResumeState
from latentlab.callbacks.samples import Samples
from latentlab.callbacks.timing import Timing
from latentlab.callbacks.usage import LatentUsage

__all__ = [
    "BestCheckpoint",
    "ClassSamples",
    "Drawing",
    "FigureCallback",
    "GradientVariance",
    "LastCheckpoint",
    "LatentUsage",
    "Latents",
    "Manifold",
    "Progress",
    "Reconstructions",
    "ResumeState",
    "Samples",
    "Table",
    "Timing",
]
