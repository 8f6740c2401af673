"""Figures of the classical inferences."""

from latentlab.figures.classical.bbvi import BBVIFigures
from latentlab.figures.classical.earthquakes import EarthquakeFigures
from latentlab.figures.classical.gamma_mle import GammaFigures
from latentlab.figures.classical.mean_field import MeanFieldFigures
from latentlab.figures.classical.normal_gamma import NormalGammaFigures
from latentlab.figures.classical.ppca import PPCAFigures

__all__ = [
    "BBVIFigures",
    "EarthquakeFigures",
    "GammaFigures",
    "MeanFieldFigures",
    "NormalGammaFigures",
    "PPCAFigures",
]
