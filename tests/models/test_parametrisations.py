"""The parametrisations of a denoiser: their start, for each network, and the exact odds of data of -1 and 1."""

import math
from functools import partial

import pytest
import torch
from gaussian_diffusion import Constant, gaussian
from oracles import Z_MAX, gauss_hermite, largest_z

from latentlab.models.diffusion import (
    Data,
    Diffusion,
    Mixed,
    Noise,
    NoiseDraws,
    ResidualNoise,
    Score,
    Signs,
    Velocity,
)
from latentlab.models.vdm import VDM
from latentlab.nn.denoisers import MLPDenoiser, ShiftedMLPDenoiser
from latentlab.nn.unet import UNet
from latentlab.protocols import Discrete, Threshold
from latentlab.schedules import LinearSchedule, alpha, sigma

LOW, HIGH = -6.0, 8.0
SHAPE = (1, 4, 4)
NETWORKS = {
    "unet": partial(UNet, channels=(8,), embedding=8),
    "mlp": partial(MLPDenoiser, width=8, blocks=1, embedding=8),
}
STARTS = {
    ResidualNoise: lambda z, gamma: z,
    Mixed: lambda z, gamma: sigma(gamma) * z,
    Signs: lambda z, gamma: (
        (z - alpha(gamma) * torch.tanh(alpha(gamma) / sigma(gamma) ** 2 * z)) / sigma(gamma)
    ),
    Data: lambda z, gamma: z / sigma(gamma),
    Velocity: lambda z, gamma: sigma(gamma) * z,
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", STARTS)
def test_every_network_starts_at_f_equal_to_zero(kind, network):
    diffusion = Diffusion(SHAPE, LinearSchedule(LOW, HIGH), NETWORKS[network], kind())
    z, gamma = torch.randn(5, *SHAPE), torch.linspace(LOW, HIGH, 5)
    assert torch.equal(diffusion.denoiser(z, gamma), torch.zeros_like(z))
    eps_hat = diffusion.predict(z, gamma)
    torch.testing.assert_close(eps_hat, STARTS[kind](z, gamma.view(5, 1, 1, 1)), rtol=1e-4, atol=1e-4)
    eps_hat.square().sum().backward()
    assert diffusion.denoiser.out.weight.grad.any()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("protocol", "log_odds", "kind"),
    [(Threshold(), True, Signs), (Threshold(), False, ResidualNoise), (Discrete(), True, ResidualNoise)],
)
def test_the_vdm_chooses_by_its_values_whatever_the_network(network, protocol, log_odds, kind):
    model = VDM(LinearSchedule(gamma_max=HIGH), NETWORKS[network], protocol, log_odds=log_odds, x_shape=SHAPE)
    assert type(model.diffusion.parametrisation) is kind


def test_outputs_are_float32_under_reduced_precision():
    for network in NETWORKS.values():
        diffusion = Diffusion(SHAPE, LinearSchedule(LOW, HIGH), network, Mixed())
        with torch.autocast("cpu", torch.bfloat16):
            assert diffusion.predict(torch.randn(2, *SHAPE), torch.zeros(2)).dtype == torch.float32


def test_old_mlp_denoisers_keep_the_mixed_score():
    z, gamma = torch.randn(5, 3), torch.linspace(LOW, HIGH, 5)
    old = Diffusion(
        (3,), LinearSchedule(LOW, HIGH), partial(ShiftedMLPDenoiser, width=8, embedding=8), ResidualNoise()
    )
    torch.testing.assert_close(old.predict(z, gamma), sigma(gamma)[:, None] * z)


# -- The predictions of one denoiser

VARIANCE = 0.25


class Best(torch.nn.Module):
    """The optimal prediction of a kind for x ~ N(0, VARIANCE), which is linear in z_t."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, z_t, gamma_t):
        gamma = gamma_t.view(-1, 1)
        a, s = alpha(gamma), sigma(gamma)
        total = a**2 * VARIANCE + s**2  # the variance of z_t
        eps, x = s / total, a * VARIANCE / total
        return z_t * {Noise: eps, Data: x, Velocity: a * eps - s * x, Score: -1 / total}[self.kind]


@pytest.mark.parametrize("kind", [Noise, Data, Velocity, Score])
def test_every_prediction_of_the_best_denoiser_has_the_same_bound_and_samples(kind):
    """The gradient of log N(z_t; 0, total) is -z_t / total: the score is checked by its definition."""
    schedule = LinearSchedule(LOW, HIGH)
    one = Diffusion((2,), schedule, lambda shape, **ends: Best(kind), kind()).double()
    other = gaussian(schedule, VARIANCE, event_shape=(2,))
    x, eps = torch.randn(2, 30, 2, dtype=torch.float64)
    draws = NoiseDraws(torch.rand(30, dtype=torch.float64), eps)
    for steps in (None, 7):
        torch.testing.assert_close(one.loss(x, steps, draws), other.loss(x, steps, draws))
    samples = []
    for diffusion in (one, other):
        torch.manual_seed(1)
        samples.append(diffusion.sample(5, steps=9))
    torch.testing.assert_close(*samples)


def test_a_chosen_prediction_wins_over_log_odds():
    model = VDM(
        LinearSchedule(gamma_max=HIGH),
        NETWORKS["unet"],
        Threshold(),
        prediction=Velocity(),
        x_shape=SHAPE,
    )
    assert isinstance(model.diffusion.parametrisation, Velocity)


# -- Signs


def signs(f, shape=(3,)):
    return Diffusion(shape, LinearSchedule(LOW, HIGH), lambda shape, **ends: Constant(f), Signs()).double()


@pytest.mark.parametrize("gamma", [-3.0, 0.0, 4.0])
def test_x_hat_is_the_posterior_mean_under_the_odds_of_the_network(gamma):
    level = torch.tensor(gamma, dtype=torch.float64)
    z = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    eps_hat = signs(0.7, shape=(1,)).predict(z, level.expand(13))
    logits = [-((z - alpha(level) * x) ** 2) / (2 * sigma(level) ** 2) + 0.7 * x for x in (-1, 1)]
    weights = torch.stack(logits).softmax(0)
    torch.testing.assert_close((z - sigma(level) * eps_hat) / alpha(level), weights[1] - weights[0])


def test_without_a_network_the_bound_is_that_of_tossed_coins():
    model, x = signs(0.0), torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64)
    many = x.expand(1000, 3)
    bounds = torch.stack([(model.prior_kl(many) + model.loss(many)).mean() for _ in range(50)])
    exact = torch.tensor(3 * math.log(2) + left_at_the_ends(), dtype=torch.float64)
    assert largest_z(bounds, exact) < Z_MAX


def left_at_the_ends() -> float:
    """Three times the KL(q(z_1|x) || p(z_1)) of a coin, less its loss below LOW and above HIGH."""
    nodes, weights = gauss_hermite(100)
    span = torch.linspace(-30, 60, 90_001, dtype=torch.float64)
    x_hat = torch.tanh(alpha(span) / sigma(span) ** 2 * (alpha(span) + sigma(span) * nodes[:, None]))
    loss = 0.5 * (-span).exp() * (weights[:, None] * (1 - x_hat) ** 2).sum(0)
    left = [torch.trapezoid(loss[part], span[part]).item() for part in (span <= LOW, span >= HIGH)]
    return 3 * (0.5 * math.log1p(math.exp(-HIGH)) - sum(left))


def test_noise_is_exact_where_there_is_little():
    z, gamma = torch.tensor([[0.999, -1.002]]), torch.tensor([-13.3])
    expected = (z - alpha(gamma) * torch.sign(z)) / sigma(gamma)
    torch.testing.assert_close(signs(0.3, shape=(2,)).float().predict(z, gamma), expected)
