"""Data of -1 and 1: what a pixel's own noise says of it, and what is left to learn."""

import math

import torch
from oracles import Z_MAX, gauss_hermite, largest_z
from torch import nn

from latentlab.models.diffusion import Diffusion
from latentlab.nn.denoiser import MLPDenoiser
from latentlab.nn.signs import SignDenoiser
from latentlab.schedules import LinearSchedule

LOW, HIGH = -6.0, 8.0


class Departs(nn.Module):
    """A network that departs from z_t by a number."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by, dtype=torch.float64))

    def forward(self, z_t, gamma_t):
        return z_t + self.by


def diffusion(by=0.0, shape=(3,)):
    schedule = LinearSchedule(LOW, HIGH)
    return Diffusion(shape, schedule, lambda event_shape, **ends: SignDenoiser(Departs(by))).double()


def test_what_it_expects_is_the_posterior_mean_under_the_odds_of_its_network():
    for gamma in (-3.0, 0.0, 4.0):
        level = torch.tensor(gamma, dtype=torch.float64)
        alpha, sigma = (-level).sigmoid().sqrt(), level.sigmoid().sqrt()
        z = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
        eps_hat = SignDenoiser(Departs(0.7))(z, level.expand(13))
        weights = torch.stack([-((z - alpha * x) ** 2) / (2 * sigma**2) + 0.7 * x for x in (-1, 1)]).softmax(
            0
        )
        torch.testing.assert_close((z - sigma * eps_hat) / alpha, weights[1] - weights[0])


def test_without_a_network_the_bound_is_that_of_tossed_coins():
    model, x = diffusion(), torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64)
    many = x.expand(1000, 3)
    bounds = torch.stack([(model.prior_kl(many) + model.loss(many)).mean() for _ in range(50)])
    assert largest_z(bounds, torch.tensor(3 * math.log(2) + left_at_the_ends(), dtype=torch.float64)) < Z_MAX


def left_at_the_ends() -> float:
    """Three times: KL(q(z_1|x) || p(z_1)) of a coin, less its loss below LOW and above HIGH."""
    nodes, weights = gauss_hermite(100)
    span = torch.linspace(-30, 60, 90_001, dtype=torch.float64)
    alpha, sigma = (-span).sigmoid().sqrt(), span.sigmoid().sqrt()
    x_hat = torch.tanh(alpha / sigma**2 * (alpha + sigma * nodes[:, None]))
    loss = 0.5 * (-span).exp() * (weights[:, None] * (1 - x_hat) ** 2).sum(0)
    left = [torch.trapezoid(loss[part], span[part]).item() for part in (span <= LOW, span >= HIGH)]
    return 3 * (0.5 * math.log1p(math.exp(-HIGH)) - sum(left))


def test_odds_of_the_network_are_trained():
    network = MLPDenoiser((3,), gamma_min=LOW, gamma_max=HIGH, width=8, blocks=1, embedding=8)
    SignDenoiser(network)(torch.randn(5, 3), torch.zeros(5)).square().sum().backward()
    assert network.out.weight.grad.any()


def test_noise_is_exact_where_there_is_little():
    z = torch.tensor([[0.999, -1.002]])
    gamma = torch.tensor([-13.3])
    alpha, sigma = (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
    expected = (z - alpha * torch.sign(z)) / sigma
    torch.testing.assert_close(SignDenoiser(Departs(0.3).float())(z, gamma), expected)
