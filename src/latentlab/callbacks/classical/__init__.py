"""Figures of the classical inferences."""

from latentlab.callbacks.classical.bbvi import BBVIFigures
from latentlab.callbacks.classical.earthquakes import EarthquakeFigures
from latentlab.callbacks.classical.gamma_mle import GammaFigures
from latentlab.callbacks.classical.mean_field import MeanFieldFigures
from latentlab.callbacks.classical.normal_gamma import NormalGammaFigures
from latentlab.callbacks.classical.ppca import PPCAFigures

__all__ = [
    "BBVIFigures",
    "EarthquakeFigures",
    "GammaFigures",
    "MeanFieldFigures",
    "NormalGammaFigures",
    "PPCAFigures",
]
