"""Figures of classical inference, drawn without Lightning."""

import pytest
import torch
from matplotlib.figure import Figure

from latentlab.classical.base import Source, converge
from latentlab.classical.bbvi import BBVINormalGamma, RobbinsMonro
from latentlab.classical.earthquakes import CAVIEarthquakes
from latentlab.classical.gamma_mle import GammaMLE
from latentlab.classical.mean_field import MeanFieldGaussian
from latentlab.classical.normal_gamma import CAVINormalGamma
from latentlab.classical.ppca import PPCA
from latentlab.classical.sources import EarthquakeCatalogue, GammaDraws, NoObservations, NormalDraws
from latentlab.figures.classical import earthquakes, gamma_mle, mean_field, normal_gamma, ppca

CATALOGUE = EarthquakeCatalogue(60, num_components=3)
IMAGES = Source(torch.rand(30, 16))
CASES = [
    (lambda: CAVIEarthquakes(3, restarts=2), CATALOGUE, earthquakes.cluster_map, 1),
    (lambda: CAVIEarthquakes(3, restarts=2), Source(CATALOGUE.x), earthquakes.cluster_map, 1),
    (lambda: CAVIEarthquakes(3, restarts=2), CATALOGUE, earthquakes.rates, 1),
    (lambda: CAVIEarthquakes(3, restarts=2), CATALOGUE, earthquakes.elbo, 2),
    (CAVINormalGamma, NormalDraws(10), normal_gamma.posterior_and_elbo, 2),
    (lambda: BBVINormalGamma(RobbinsMonro), NormalDraws(10), normal_gamma.posterior, 1),
    (lambda: BBVINormalGamma(RobbinsMonro), NormalDraws(10), normal_gamma.path, 3),
    (lambda: BBVINormalGamma(RobbinsMonro), NormalDraws(10), normal_gamma.variance, 1),
    (GammaMLE, GammaDraws(20), gamma_mle.paths, 2),
    (MeanFieldGaussian, NoObservations(), mean_field.ellipses, 2),
    (lambda: PPCA(3, em=True, x_shape=(1, 4, 4)), IMAGES, ppca.likelihood, 2),
    (lambda: PPCA(3, em=True, x_shape=(1, 4, 4)), IMAGES, ppca.loadings, 3),
]


@pytest.mark.parametrize(("build", "data", "draw", "axes"), CASES)
def test_a_figure_is_drawn_of_a_model_and_its_data(build, data, draw, axes):
    model = converge(build(), data.x, 5)
    before = torch.get_rng_state()
    figure = draw(model, data)
    assert isinstance(figure, Figure) and len(figure.axes) == axes
    assert torch.equal(torch.get_rng_state(), before)


def test_true_centres_are_drawn_if_they_are_known():
    model = converge(CAVIEarthquakes(3, restarts=2), CATALOGUE.x, 5)
    known, unknown = (earthquakes.cluster_map(model, data) for data in (CATALOGUE, Source(CATALOGUE.x)))
    assert len(known.axes[0].lines) == len(unknown.axes[0].lines) + 1
