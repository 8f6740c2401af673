"""Likelihoods p(x|z): modules that map z to a distribution over images."""

from latentlab.likelihoods.base import Likelihood, LikelihoodFactory, PixelLikelihood
from latentlab.likelihoods.bernoulli import BernoulliLikelihood, ContinuousBernoulliLikelihood
from latentlab.likelihoods.categorical import CategoricalLikelihood
from latentlab.likelihoods.ensemble import EnsembleLikelihood
from latentlab.likelihoods.gaussian import (
    GaussianFixedLikelihood,
    GaussianPerPixelLikelihood,
    GaussianPredictedLikelihood,
    GaussianSharedLikelihood,
)
from latentlab.likelihoods.logistic import DiscretisedLogisticLikelihood
from latentlab.likelihoods.noised import NoisedLikelihood

__all__ = [
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "DiscretisedLogisticLikelihood",
    "EnsembleLikelihood",
    "GaussianFixedLikelihood",
    "GaussianPerPixelLikelihood",
    "GaussianPredictedLikelihood",
    "GaussianSharedLikelihood",
    "Likelihood",
    "LikelihoodFactory",
    "NoisedLikelihood",
    "PixelLikelihood",
]
