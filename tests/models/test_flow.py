"""Flows of the data: exact densities of points and of pixels."""

from functools import partial

import pytest
import torch
import zuko

from latentlab.errors import UserError
from latentlab.figures.density import on_grid
from latentlab.models.flow import Flow
from latentlab.protocols import Dequantised, Real, Threshold

SMALL = partial(zuko.flows.RealNVP, transforms=3, hidden_features=(16,))


def flow(protocol=None, shape=(2,)):
    torch.manual_seed(0)
    return Flow(SMALL, protocol or Real(), x_shape=shape, margin=0.01).double()


def test_the_density_of_points_integrates_to_one():
    model = flow()
    edges = [torch.linspace(-12, 12, 401, dtype=torch.float64)] * 2
    with torch.no_grad():
        values = on_grid(model, edges, 1)
    assert (values.exp().sum() * (24 / 400) ** 2).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("protocol", [Real(), Dequantised()])
def test_log_p_is_the_change_of_variables_of_the_whole_map(protocol):
    model, x = flow(protocol, (3,)), torch.rand(4, 3, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda each: model.encode(each[None])[0]))(x)
    z = model.encode(x)
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(1) + torch.linalg.slogdet(jacobians).logabsdet
    assert torch.allclose(model.terms(x)["elbo"], expected)
    assert torch.allclose(model.decode(z), x)


def test_samples_of_pixels_are_pixels_and_follow_the_seed():
    model = flow(Dequantised(), (1, 2, 2))
    torch.manual_seed(1)
    x = model.generate(5)
    torch.manual_seed(1)
    assert torch.equal(x, model.generate(5, mean=True))
    assert x.shape == (5, 1, 2, 2) and x.min() >= 0 and x.max() <= 1


def test_protocols_without_a_density_are_refused():
    with pytest.raises(UserError, match="dequantised"):
        flow(Threshold())
    with pytest.raises(UserError, match="moons"):
        flow(Real()).check(Dequantised())
