"""Callbacks: checkpoints, resuming, moving averages, gradients, progress, timing, figures, latents."""

from latentlab.callbacks.checkpoints import BestCheckpoint, Checkpoints, LastCheckpoint
from latentlab.callbacks.ema import EMA
from latentlab.callbacks.figures import Figures
from latentlab.callbacks.gradient_skip import GradientSkip
from latentlab.callbacks.gradient_variance import GradientVariance
from latentlab.callbacks.progress import Progress
from latentlab.callbacks.resuming import ResumeState
from latentlab.callbacks.signals import Signals
from latentlab.callbacks.timing import Timing
from latentlab.callbacks.units import Units

__all__ = [
    "EMA",
    "BestCheckpoint",
    "Checkpoints",
    "Figures",
    "GradientSkip",
    "GradientVariance",
    "LastCheckpoint",
    "Progress",
    "ResumeState",
    "Signals",
    "Timing",
    "Units",
]
