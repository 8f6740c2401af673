"""The Lightning side: one base module, and a thin class for each family."""

from latentlab.lit.base import EVALUATION_SEED, BaseModule, ScoringModule
from latentlab.lit.classical import ClassicalModule, IterativeModule, LikelihoodModule
from latentlab.lit.diffusion import DiffusionModule
from latentlab.lit.families import AutoencoderModule, ConditionalModule, HierarchicalModule, VAEModule
from latentlab.lit.latent_diffusion import LatentDiffusionModule

__all__ = [
    "EVALUATION_SEED",
    "AutoencoderModule",
    "BaseModule",
    "ClassicalModule",
    "ConditionalModule",
    "DiffusionModule",
    "HierarchicalModule",
    "IterativeModule",
    "LatentDiffusionModule",
    "LikelihoodModule",
    "ScoringModule",
    "VAEModule",
]
