"""The Lightning side: one base module, and a thin class for each family."""

from latentlab.lit.base import EVALUATION_SEED, BaseModule, ScoringModule
from latentlab.lit.classical import ClassicalModule, IterativeModule, LikelihoodModule
from latentlab.lit.families import AutoencoderModule, ConditionalModule, HierarchicalModule, VAEModule

__all__ = [
    "EVALUATION_SEED",
    "AutoencoderModule",
    "BaseModule",
    "ClassicalModule",
    "ConditionalModule",
    "HierarchicalModule",
    "IterativeModule",
    "LikelihoodModule",
    "ScoringModule",
    "VAEModule",
]
