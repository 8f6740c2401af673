"""ADVI: its exact bound, its gradient, and its optimum."""

from functools import partial

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from oracles import Z_MAX, largest_z
from torch.distributions import MultivariateNormal

from latentlab.classical.advi import ADVI, ADVIEarthquakes, ADVINormalGamma
from latentlab.classical.base import converge
from latentlab.classical.earthquakes import CAVIEarthquakes
from latentlab.classical.normal_gamma import CAVINormalGamma
from latentlab.errors import UserError

ADAM = partial(torch.optim.Adam, lr=0.02)
X = torch.tensor([0.3, 1.9, -0.4, 2.2, 1.1, 0.8], dtype=torch.float64)[:, None]


def model(full_rank, **options):
    made = ADVINormalGamma(ADAM, full_rank=full_rank, **options)
    made.begin([X])
    start = torch.tensor([0.7, -0.2, -1.0, -0.9, 0.15], dtype=torch.float64)
    made.theta.copy_(start[: len(made.theta)])
    return made


def quadrature(made, number=60):
    """The ELBO by Gauss-Hermite quadrature over both latents."""
    nodes, weights = map(torch.tensor, hermegauss(number))
    e, w = torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(weights, weights).prod(-1)
    return (w / w.sum()) @ made.log_joint(made.mean + e @ made.scale.mT) + made.entropy()


@pytest.mark.parametrize("full_rank", [False, True])
def test_the_bound_is_that_of_quadrature_and_below_the_evidence(full_rank):
    made = model(full_rank)
    torch.testing.assert_close(made.elbo(), quadrature(made), rtol=1e-9, atol=0)
    q = MultivariateNormal(made.mean, scale_tril=made.scale)
    torch.testing.assert_close(made.entropy(), q.entropy())
    assert made.elbo() < made.prior.log_evidence(made.data)


@pytest.mark.parametrize("full_rank", [False, True])
def test_the_gradient_is_unbiased(full_rank):
    made = model(full_rank)
    torch.manual_seed(0)
    found = made.contributions(20_000)
    theta = made.theta.clone()
    step = 1e-5 * torch.eye(len(theta), dtype=torch.float64)

    def bound(values):
        made.theta.copy_(values)
        return made.elbo()

    exact = torch.stack([(bound(theta + row) - bound(theta - row)) / 2e-5 for row in step])
    assert largest_z(found, exact) < Z_MAX


class Gaussian(ADVI):
    """A posterior that is a Gaussian with a known normaliser."""

    names = ("a", "b", "c")

    def __init__(self, full_rank):
        super().__init__(tolerance=0.0)
        self.set_up(partial(torch.optim.Adam, lr=0.02), 100, full_rank, 0.5)
        scale = torch.tensor([[1.0, 0, 0], [0.8, 0.5, 0], [-0.6, 0.3, 0.7]], dtype=torch.float64)
        mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        self.exact = MultivariateNormal(mean, scale_tril=scale)

    def log_joint(self, zeta):
        return self.exact.log_prob(zeta) - 3.0

    def elbo(self):
        q = MultivariateNormal(self.mean, scale_tril=self.scale)
        return -3.0 - torch.distributions.kl_divergence(q, self.exact)

    set_data = start = estimates = lambda self, *_: None


def test_full_rank_finds_a_gaussian_posterior_and_mean_field_its_optimum():
    torch.manual_seed(0)
    full, diagonal = (converge(Gaussian(full_rank), X, 1000) for full_rank in (True, False))
    assert full.elbo().item() == pytest.approx(-3.0, abs=0.02)
    # The best diagonal Gaussian has the diagonal of the precision matrix (Bishop 2006, section 10.1.2).
    precision = diagonal.exact.precision_matrix
    best = -3.0 - 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert diagonal.elbo().item() == pytest.approx(best.item(), abs=0.02)


def test_the_normal_gamma_model_ends_near_the_evidence():
    torch.manual_seed(0)
    exact = CAVINormalGamma()
    converge(exact, X, 100)
    diagonal, full = (converge(ADVINormalGamma(ADAM, full_rank=rank), X, 500) for rank in (False, True))
    evidence = exact.prior.log_evidence(exact.data).item()
    assert evidence - 0.3 < diagonal.elbo() < evidence and evidence - 0.3 < full.elbo() < evidence
    assert diagonal.moments().mean_mu.item() == pytest.approx(exact.m.item(), abs=0.1)


def test_a_single_draw_is_refused():
    with pytest.raises(UserError, match="samples=1: at least 2"):
        ADVINormalGamma(ADAM, samples=1)


QUAKES = torch.tensor(
    [[0.1, 0.2, 3], [0.4, -0.3, 5], [-0.5, 0.1, 4], [6.2, 5.8, 11], [5.7, 6.3, 9], [6.0, 6.1, 13]],
    dtype=torch.float64,
)


def test_the_joint_density_of_earthquakes_is_the_sum_over_all_clusters():
    made = ADVIEarthquakes(ADAM, num_components=2, weights=[0.3, 0.7])
    made.begin([QUAKES])
    mu, rate = torch.tensor([[0.2, 0.1], [5.0, 6.0]]).double(), torch.tensor([4.0, 10.0]).double()
    normal, poisson = torch.distributions.Normal(mu, 1.0), torch.distributions.Poisson(rate)
    each = normal.log_prob(QUAKES[:, None, :2]).sum(-1) + poisson.log_prob(QUAKES[:, None, 2])
    prior = torch.distributions.Normal(0.0, 10.0).log_prob(mu).sum()
    gamma = torch.distributions.Gamma(*torch.tensor([2.0, 0.2]).double()).log_prob(rate).sum()
    likelihood = (each + torch.tensor([0.3, 0.7]).double().log()).logsumexp(-1).sum()
    found = made.log_joint(torch.cat([mu.flatten(), rate.log()])[None])
    torch.testing.assert_close(found, (likelihood + prior + gamma + rate.log().sum())[None])


@pytest.mark.parametrize("full_rank", [False, True])
def test_earthquakes_end_near_the_bound_of_coordinate_ascent(full_rank):
    torch.manual_seed(0)
    exact = converge(CAVIEarthquakes(num_components=2), QUAKES, 50)
    found = converge(ADVIEarthquakes(ADAM, num_components=2, full_rank=full_rank), QUAKES, 300)
    assert found.elbo().item() == pytest.approx(exact.elbo().item(), abs=0.6)
