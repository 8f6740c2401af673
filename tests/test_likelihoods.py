"""Likelihoods: densities, initial values, shapes, and refused data."""

import logging

import pytest
import torch
from oracles import Z_MAX, largest_z

from latentlab.errors import UserError
from latentlab.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretisedLogisticLikelihood,
    GaussianFixedLikelihood,
    GaussianPerPixelLikelihood,
    GaussianPredictedLikelihood,
    GaussianSharedLikelihood,
)
from latentlab.nn.mlp import MLP
from latentlab.protocols import PROTOCOLS, Continuous, Discrete, FourBit, Threshold

GAUSSIAN = [
    GaussianFixedLikelihood,
    GaussianSharedLikelihood,
    GaussianPerPixelLikelihood,
    GaussianPredictedLikelihood,
]
DISCRETE = [CategoricalLikelihood, DiscretisedLogisticLikelihood]
KINDS = [BernoulliLikelihood, ContinuousBernoulliLikelihood, *DISCRETE, *GAUSSIAN]
SHAPE = (3, 2, 1)


def network(in_shape, out_shape):
    return MLP(in_shape, out_shape, hidden=(8,), activation=torch.nn.Tanh)


def make(kind, **options):
    return kind(network, (2,), SHAPE, **options).double()


def pixel_rule(levels):
    """The values of a pixel and their weights in a sum, or an integral for a density."""
    if levels is not None:
        return torch.arange(levels).double() / (levels - 1), torch.ones(levels).double()
    # Riemann sum over an interval much longer than [0, 1].
    x = torch.linspace(-12, 13, 200_001, dtype=torch.float64)
    return x, torch.full_like(x, 25 / 200_000)


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not ContinuousBernoulliLikelihood])
def test_every_pixel_integrates_to_one(kind):
    x, weights = pixel_rule(make(kind).levels)
    with torch.no_grad():
        pixels = make(kind)(torch.randn(2).double()).base_dist
        density = pixels.log_prob(x[:, None, None, None]).exp()
        torch.testing.assert_close(
            (weights[:, None, None, None] * density).sum(0), torch.ones(SHAPE).double()
        )


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_means(kind):
    with torch.no_grad():
        p = make(kind)(torch.randn(2).double())
        assert largest_z(p.sample((20_000,)), p.mean) < Z_MAX


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtype(kind, dtype):
    likelihood = make(kind).to(dtype)
    for lead in [(), (4,), (1, 4), (3, 4)]:
        p = likelihood(torch.randn(*lead, 2, dtype=dtype))
        x = torch.ones(SHAPE, dtype=dtype)
        assert p.log_prob(x).shape == lead and p.log_prob(x).dtype == dtype
        assert p.mean.shape == p.sample().shape == (*lead, *SHAPE)
        assert p.mean.dtype == p.sample().dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_single_precision_in_mixed_precision(kind):
    likelihood = make(kind).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert likelihood.network(torch.zeros(4, 2)).dtype == torch.bfloat16
        p = likelihood(torch.zeros(4, 2))
        assert p.mean.dtype == p.log_prob(torch.ones(SHAPE)).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind):
    likelihood = make(kind)
    likelihood(torch.randn(3, 2).double()).log_prob(torch.ones(SHAPE).double()).sum().backward()
    for name, parameter in likelihood.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_starts_from_the_pixel_means_where_asked(kind):
    started = make(kind, initialise_bias=True)
    levels = started.levels or 256
    images = torch.randint(levels, (500, *SHAPE)).double() / (levels - 1)
    images = images * torch.linspace(0.2, 1, 6).view(SHAPE).double() if started.levels is None else images
    with torch.no_grad():
        for parameter in started.network.parameters():
            parameter.zero_()
        started.initialise(images)
        means = started(torch.zeros(2).double()).mean
    # The location of a logistic is only near its mean, and every level of a categorical counts once more.
    tolerance = 0.02 if kind in DISCRETE else 1e-6
    torch.testing.assert_close(means, images.mean(0), rtol=0, atol=tolerance)
    assert "offset" in started.state_dict()
    untouched = make(kind)
    untouched.initialise(images)
    assert "offset" not in untouched.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_start_is_finite_for_pixels_that_never_change(kind):
    started = make(kind, initialise_bias=True).float()
    for images in (torch.zeros(5, *SHAPE), torch.ones(5, *SHAPE)):
        started.initialise(images)
        assert started(torch.zeros(2)).log_prob(images).isfinite().all()


@pytest.mark.parametrize("kind", DISCRETE)
@pytest.mark.parametrize(
    "protocol", [Threshold(), FourBit(), Discrete()], ids=lambda protocol: str(protocol.levels)
)
def test_the_protocol_sets_the_levels(kind, protocol):
    n, z = protocol.levels, torch.randn(5, 2).double()
    likelihood = make(kind, protocol=protocol)
    likelihood.check(protocol)
    with torch.no_grad():
        p = likelihood(z).base_dist
        x = torch.arange(n).double().view(n, *[1] * (1 + len(SHAPE))) / (n - 1)
        probabilities = p.log_prob(x).exp()
        torch.testing.assert_close(probabilities.sum(0), torch.ones(5, *SHAPE).double())
        torch.testing.assert_close(p.mean, (probabilities * x).sum(0))
        drawn = p.sample((20_000,))
    assert (drawn * (n - 1) - (drawn * (n - 1)).round()).abs().max() < 1e-9
    assert (drawn.mean(0) - p.mean).abs().max() < 0.02  # more than 5 standard errors


def test_a_softmax_without_weights_gives_the_frequencies_of_the_levels():
    likelihood, n = make(CategoricalLikelihood, protocol=FourBit(), initialise_bias=True), 16
    images = torch.randint(n, (400, *SHAPE)).double() / (n - 1)
    with torch.no_grad():
        for parameter in likelihood.network.parameters():
            parameter.zero_()
        likelihood.initialise(images)
        p = likelihood(torch.zeros(2).double()).base_dist
        for k in (0, 7, 15):
            expected = ((images * (n - 1)).round() == k).sum(0).add(1) / (400 + n)
            value = torch.full(SHAPE, k / (n - 1), dtype=torch.float64)
            torch.testing.assert_close(p.log_prob(value).exp(), expected.double())


def test_gaussian_variances():
    z = torch.randn(4, 2).double()
    fixed = make(GaussianFixedLikelihood, variance=0.25)(z)
    torch.testing.assert_close(fixed.variance, torch.full((4, *SHAPE), 0.25).double())
    shared = make(GaussianSharedLikelihood, initial_scale=0.3, min_scale=0.4)
    assert shared.log_variance.shape == ()
    torch.testing.assert_close(shared(z).stddev, torch.full((4, *SHAPE), 0.5).double())
    per_pixel = make(GaussianPerPixelLikelihood)
    assert per_pixel.log_variance.shape == SHAPE
    torch.nn.init.normal_(per_pixel.log_variance)
    assert torch.equal(per_pixel(z).variance[0], per_pixel(z).variance[1])
    predicted = make(GaussianPredictedLikelihood)(z).variance
    assert not torch.equal(predicted[0], predicted[1])


@pytest.mark.parametrize(
    "kind", [GaussianSharedLikelihood, GaussianPerPixelLikelihood, GaussianPredictedLikelihood]
)
def test_gaussian_scale_is_bounded_below(kind):
    likelihood = make(kind, min_scale=0.03)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.fill_(-100.0)
        assert (likelihood(torch.zeros(2).double()).stddev >= 0.03).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refuses_data_of_other_values(kind, protocol):
    likelihood = make(kind)
    if protocol.levels == likelihood.levels:
        likelihood.check(protocol())
    else:
        with pytest.raises(UserError, match=f"{kind.__name__} scores .* protocol={protocol.name} gives"):
            likelihood.check(protocol())


def test_warns_of_a_density_without_bits_per_dimension(caplog):
    with caplog.at_level(logging.WARNING):
        make(BernoulliLikelihood).check(PROTOCOLS[0]())
        assert not caplog.records
        make(GaussianFixedLikelihood).check(Continuous())
    assert "no bits per dimension" in caplog.text and len(caplog.records) == 1
