"""The Lightning modules: one for models trained by gradients, two for classical inference."""

from latentlab.lit.base import LitModule, ScoringModule
from latentlab.lit.classical import ClassicalLikelihoodModule, ClassicalModule
from latentlab.lit.gradient import GradientModule

__all__ = [
    "ClassicalLikelihoodModule",
    "ClassicalModule",
    "GradientModule",
    "LitModule",
    "ScoringModule",
]
