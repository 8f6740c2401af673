"""The Lightning modules: one for models trained by gradients, two for classical inference."""

from latentlab.lit.base import EVALUATION_SEED, LitModule, ScoringModule
from latentlab.lit.classical import ClassicalLikelihoodModule, ClassicalModule
from latentlab.lit.gradient import GradientModule

__all__ = [
    "EVALUATION_SEED",
    "ClassicalLikelihoodModule",
    "ClassicalModule",
    "GradientModule",
    "LitModule",
    "ScoringModule",
]
