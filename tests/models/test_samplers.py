"""The samplers against their formulas, and on normal data."""

import pytest
import torch
from gaussian_diffusion import gaussian, wavy

from latentlab.models.samplers import DDIM, Ancestral, reverse
from latentlab.schedules import LinearBetaSchedule, LinearSchedule, alpha, sigma

GAMMA_T, GAMMA_S = torch.tensor([[3.0], [-1.0]]).double(), torch.tensor([[1.0], [-1.3]]).double()
Z, EPS = torch.randn(2, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def drawn(sampler, seed=0):
    torch.manual_seed(seed)
    return sampler(Z, EPS, GAMMA_T, GAMMA_S)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_of_ddim_is_that_of_the_paper(eta):
    """Song et al. 2021, eq. 12 and 16, in their notation: alpha is the squared factor of the signal."""
    alpha_t, alpha_s = torch.sigmoid(-GAMMA_T), torch.sigmoid(-GAMMA_S)
    deviation = eta * ((1 - alpha_s) / (1 - alpha_t) * (1 - alpha_t / alpha_s)).sqrt()
    x_hat = (Z - (1 - alpha_t).sqrt() * EPS) / alpha_t.sqrt()
    torch.manual_seed(0)
    noise = torch.randn_like(Z)
    expected = alpha_s.sqrt() * x_hat + (1 - alpha_s - deviation**2).sqrt() * EPS + deviation * noise
    torch.testing.assert_close(drawn(DDIM(eta)), expected)


def test_ddim_with_all_of_the_noise_is_ancestral_sampling():
    """Mean and variance of every step are the same, in any number of steps."""
    p = reverse(Z, EPS, GAMMA_T, GAMMA_S)
    found = drawn(DDIM(1.0))
    torch.manual_seed(0)
    torch.testing.assert_close(found, p.mean + p.stddev * torch.randn_like(Z))
    torch.testing.assert_close(drawn(Ancestral()), drawn(DDIM(1.0)))
    diffusion = wavy(LinearSchedule(-6.0, 5.0))
    paths = []
    for sampler in (Ancestral(), DDIM(1.0)):
        torch.manual_seed(0)
        paths.append(diffusion.sample(3, steps=5, sampler=sampler))
    torch.testing.assert_close(*paths)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_the_marginals_are_those_of_the_noised_data(eta):
    """With the true noise, z_s = alpha_s x + a eps + b noise with a^2 + b^2 = sigma_s^2."""
    x = torch.full_like(Z, 0.7)
    zero = torch.zeros_like(Z)

    def step(data, eps, eta):
        torch.manual_seed(0)
        z_t = alpha(GAMMA_T) * data + sigma(GAMMA_T) * eps
        return DDIM(eta)(z_t, eps, GAMMA_T, GAMMA_S)

    noise = torch.randn(Z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = step(zero, zero, eta) / noise
    a = (step(zero, noise, eta) - step(zero, zero, eta)) / noise
    torch.testing.assert_close(a**2 + b**2, (sigma(GAMMA_S) ** 2).expand_as(Z))
    torch.testing.assert_close(step(x, zero, eta) - step(zero, zero, eta), alpha(GAMMA_S) * x)


@pytest.mark.parametrize("schedule", [LinearSchedule(-6.0, 9.0), LinearBetaSchedule()])
def test_deterministic_paths_reach_the_variance_of_the_data(schedule):
    """With the best denoiser a path is linear in z_1. Its factor is exact in the limit of many steps."""
    diffusion = gaussian(schedule, variance=0.25)
    ends = torch.tensor([schedule.gamma_max, schedule.gamma_min], dtype=torch.float64)
    start, end = alpha(ends) ** 2 * 0.25 + sigma(ends) ** 2
    errors = []
    for steps in (10, 100, 1000):
        first, *_, last = diffusion.path(1, steps, DDIM())
        errors.append(abs((last / first).item() ** 2 * (start / end).item() - 1))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01
