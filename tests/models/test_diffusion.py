"""The diffusion against closed forms: normal data, exact sums over steps, exact quadrature over time."""

from math import exp, log, log1p, pi

import pytest
import torch
from gaussian_diffusion import expected_loss, gaussian, total_loss, wavy
from oracles import Z_MAX, largest_z
from torch.distributions import Independent, Normal, kl_divergence

from latentlab.errors import UserError
from latentlab.models.diffusion import Diffusion, ResidualNoise
from latentlab.schedules import CosineSchedule, LearnedSchedule, LinearSchedule, alpha, sigma

KINDS = [LinearSchedule, CosineSchedule, LearnedSchedule]
ENDS = (-13.3, 5.0)


def forward_step(schedule, s, t):
    """The factor and the variance of q(z_t|z_s)."""
    gamma_s, gamma_t = schedule(s).gamma, schedule(t).gamma
    factor = alpha(gamma_t) / alpha(gamma_s)
    return factor, sigma(gamma_t) ** 2 - (factor * sigma(gamma_s)) ** 2


def posterior(schedule, x, z_t, s, t):
    """q(z_s|z_t, x) by Bayes's rule, from q(z_t|z_s) and q(z_s|x), for x and z_t (N, D)."""
    factor, variance = (part[:, None] for part in forward_step(schedule, s, t))
    gamma_s = schedule(s).gamma[:, None]
    precision = 1 / sigma(gamma_s) ** 2 + factor**2 / variance
    mean = (alpha(gamma_s) * x / sigma(gamma_s) ** 2 + factor * z_t / variance) / precision
    return Independent(Normal(mean, precision.rsqrt()), 1)


def times(n):
    pairs = torch.rand(n, 2, dtype=torch.float64).sort(dim=1).values
    return pairs.unbind(1)


# -- The chain


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_steps_compose_to_the_marginal(kind):
    schedule = kind(*ENDS).double()
    r, s, t = torch.rand(50, 3, dtype=torch.float64).sort(dim=1).values.unbind(1)
    first, second, whole = (forward_step(schedule, *pair) for pair in ((r, s), (s, t), (r, t)))
    torch.testing.assert_close(first[0] * second[0], whole[0])
    torch.testing.assert_close(second[0] ** 2 * first[1] + second[1], whole[1])
    gamma_r, gamma_t = schedule(r).gamma, schedule(t).gamma
    torch.testing.assert_close(whole[0] ** 2 * sigma(gamma_r) ** 2 + whole[1], sigma(gamma_t) ** 2)


def test_noised_draws_have_the_moments_of_the_marginal():
    diffusion = gaussian(LinearSchedule(-3, 3), event_shape=(2,))
    x = torch.tensor([[0.3, -2.0]], dtype=torch.float64).expand(20_000, 2)
    t = torch.full((len(x),), 0.6, dtype=torch.float64)
    z = diffusion.noised(x, t, torch.randn_like(x))
    gamma = diffusion.noise_schedule(t[:1]).gamma
    assert largest_z(z, alpha(gamma) * x[0]) < Z_MAX
    assert largest_z((z - alpha(gamma) * x) ** 2, sigma(gamma).expand(2) ** 2) < Z_MAX


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_is_the_posterior_at_the_predicted_x(kind):
    diffusion = wavy(kind(*ENDS))
    (s, t), z_t = times(30), torch.randn(30, 3, dtype=torch.float64)
    gamma_t = diffusion.noise_schedule(t).gamma[:, None]
    x_hat = (z_t - sigma(gamma_t) * diffusion.predict(z_t, gamma_t[:, 0])) / alpha(gamma_t)
    exact = posterior(diffusion.noise_schedule, x_hat, z_t, s, t)
    p = diffusion.reverse(z_t, t, s)
    torch.testing.assert_close(p.mean, exact.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.stddev, exact.stddev, rtol=1e-6, atol=1e-9)
    assert p.batch_shape == (30,) and p.event_shape == (3,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_term_of_the_sum_is_the_kl_of_a_step(kind):
    steps, n = 7, 40
    diffusion = wavy(kind(-5.0, 4.0))
    x, eps = torch.randn(2, n, 3, dtype=torch.float64)
    t = torch.randint(1, steps + 1, (n,)).double() / steps
    s, z_t = (t - 1 / steps).clamp(min=0), diffusion.noised(x, t, eps)
    kl = kl_divergence(posterior(diffusion.noise_schedule, x, z_t, s, t), diffusion.reverse(z_t, t, s))
    torch.testing.assert_close(diffusion.loss_at(x, t, steps, eps), steps * kl, rtol=1e-8, atol=1e-8)


def test_prior_kl_is_the_kl_of_the_last_marginal():
    diffusion, x = wavy(LinearSchedule(-4.0, 1.5)), torch.randn(5, 3, dtype=torch.float64)
    gamma = torch.tensor(1.5, dtype=torch.float64)
    q = Independent(Normal(alpha(gamma) * x, sigma(gamma)), 1)
    p = Independent(Normal(torch.zeros_like(x), 1.0), 1)
    torch.testing.assert_close(diffusion.prior_kl(x), kl_divergence(q, p))


# -- The bound of normal data in closed form


def limit(variance, low, high):
    r"""$\frac12 \int \frac{s^2}{s^2 + e^\gamma} d\gamma$, the loss of the best denoiser averaged over x ~ N(0, s^2)."""
    return 0.5 * (log1p(variance * exp(-low)) - log1p(variance * exp(-high)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [0.25, 1.0, 4.0])
def test_the_limit_does_not_depend_on_the_schedule(kind, variance):
    diffusion = gaussian(kind(-6.0, 5.0), variance)
    # The loss is linear in x^2, so that its mean over x is its value at x = s.
    assert total_loss(diffusion, variance**0.5) == pytest.approx(limit(variance, -6.0, 5.0), abs=1e-9)


@pytest.mark.parametrize("x", [0.0, 0.4, -1.3])
def test_the_limit_is_the_log_density_of_each_x(x):
    """With p(x|z_0) = N(z_0 / alpha_0, e^gamma_0), and end points that cost only 1e-6."""
    low, high, variance = -16.0, 16.0, 0.25
    diffusion = gaussian(LinearSchedule(low, high), variance)
    prior = diffusion.prior_kl(torch.tensor([[x]], dtype=torch.float64)).item()
    bound = -0.5 * (log(2 * pi) + 1 + low) - prior - total_loss(diffusion, x)
    density = -0.5 * (log(2 * pi * variance) + x**2 / variance)
    assert bound == pytest.approx(density, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_are_better_down_to_the_limit(kind):
    ends = {"gamma_min": -6.0, "gamma_max": 5.0}
    schedule = LearnedSchedule(**ends, sigmoids=16) if kind is LearnedSchedule else kind(**ends)
    diffusion = gaussian(schedule, variance=0.25)
    counts = [1, 2, 3, 5, 10, 30, 100, 1000, 2000]
    losses = torch.tensor([total_loss(diffusion, 0.5, steps) for steps in counts])
    excess = losses - limit(0.25, -6.0, 5.0)
    assert (losses.diff() < 0).all() and (excess > 0).all()
    assert (excess[-2] / excess[-1]).item() == pytest.approx(2, abs=0.02)  # of the order 1 / T


def test_doubling_the_steps_of_any_schedule_is_better():
    for _ in range(5):
        schedule = LearnedSchedule(-6.0, 5.0, sigmoids=6).double()
        with torch.no_grad():
            schedule.height.add_(3 * torch.randn(6))
        diffusion = gaussian(schedule, variance=0.25)
        losses = [total_loss(diffusion, 0.5, steps) for steps in (2, 4, 8, 16)]
        assert losses == sorted(losses, reverse=True)


# -- Its estimate


@pytest.mark.parametrize("steps", [None, 1, 4, 50])
def test_the_estimate_is_unbiased(steps):
    diffusion = gaussian(LinearSchedule(-6.0, 5.0), variance=0.25)
    x = torch.full((10, 1), 0.7, dtype=torch.float64)
    estimates = torch.stack([diffusion.loss(x, steps).mean() for _ in range(2000)])
    exact = torch.tensor(total_loss(diffusion, 0.7, steps), dtype=torch.float64)
    assert largest_z(estimates, exact) < Z_MAX


def test_times_are_uniform_and_spread_over_the_batch():
    diffusion, x = wavy(LinearSchedule(*ENDS)), torch.zeros(8, 3, dtype=torch.float64)
    u = torch.stack([diffusion.draw(x).u for _ in range(4000)])
    assert ((u > 0) & (u <= 1)).all()
    moments = torch.stack([u, u**2])
    exact = torch.tensor([1 / 2, 1 / 3], dtype=torch.float64)[:, None].expand(2, 8)
    assert largest_z(moments.transpose(0, 1), exact) < Z_MAX
    gaps = u.sort(dim=1).values.diff(dim=1)
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / 8), rtol=0, atol=1e-6)


def test_spread_times_have_less_variance():
    # In so many dimensions the noise averages out, and the variance is that of the times.
    diffusion = gaussian(LinearSchedule(-6.0, 5.0), variance=0.25, event_shape=(200,))
    x = torch.full((16, 200), 0.7, dtype=torch.float64)
    spread = torch.stack([diffusion.loss(x).mean() for _ in range(400)])
    alone = torch.stack([diffusion.loss_at(x, torch.rand(16).double()).mean() for _ in range(400)])
    assert spread.var() < 0.1 * alone.var()


def test_forms_of_the_same_draws_differ_by_less_than_their_error():
    diffusion = gaussian(LinearSchedule(-6.0, 5.0), variance=0.25)
    x = torch.full((100, 1), 0.7, dtype=torch.float64)
    draws = [diffusion.draw(x) for _ in range(200)]
    losses = torch.stack([torch.stack([diffusion.loss(x, n, d).mean() for n in (100, None)]) for d in draws])
    difference = losses[:, 0] - losses[:, 1]
    exact = total_loss(diffusion, 0.7, 100) - total_loss(diffusion, 0.7)
    assert largest_z(difference, torch.tensor(exact, dtype=torch.float64)) < Z_MAX
    assert difference.std() < 0.3 * losses[:, 1].std()


# -- Sampling


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_paths_have_the_variance_of_their_chain(steps):
    diffusion = gaussian(CosineSchedule(-6.0, 5.0), variance=0.25, event_shape=(2,))
    grid = torch.arange(steps, -1, -1).double() / steps
    variances = [torch.ones((), dtype=torch.float64)]
    for t, s in zip(grid[:-1, None], grid[1:, None], strict=True):
        step = diffusion.reverse(torch.ones(1, 2, dtype=torch.float64), t, s)
        variances.append(step.mean[0, 0] ** 2 * variances[-1] + step.variance[0, 0])
    path = torch.stack(list(diffusion.path(20_000, steps)))
    assert path.shape == (steps + 1, 20_000, 2) and path.dtype == torch.float64
    drawn = path.square().mean(-1).T  # (n, T + 1)
    assert largest_z(drawn, torch.stack(variances)) < Z_MAX
    assert largest_z(path.mean(-1).T, torch.zeros(steps + 1, dtype=torch.float64)) < Z_MAX


def test_the_chain_ends_in_the_distribution_of_the_data():
    diffusion = gaussian(LinearSchedule(-6.0, 9.0), variance=0.25)
    z = diffusion.sample(50_000, steps=300)
    gamma = torch.tensor(-6.0, dtype=torch.float64)
    exact = alpha(gamma) ** 2 * 0.25 + sigma(gamma) ** 2
    # 300 steps leave the variance 1 % short.
    assert z.var().item() == pytest.approx(exact.item(), rel=0.03)
    assert largest_z(z, torch.zeros(1, dtype=torch.float64)) < Z_MAX


def test_samples_are_the_ends_of_paths():
    diffusion = gaussian(LinearSchedule(*ENDS), event_shape=(1, 2, 2))
    torch.manual_seed(3)
    *_, last = diffusion.path(4, steps=6)
    torch.manual_seed(3)
    assert torch.equal(diffusion.sample(4, steps=6), last)


def test_less_than_one_step_is_refused():
    with pytest.raises(UserError, match="steps=0"):
        gaussian(LinearSchedule(*ENDS)).sample(1, steps=0)


# -- The learned schedule


def by_hand(diffusion, x, t, eps):
    """Return the loss in the limit with its own gradient everywhere."""
    gamma, slope = diffusion.noise_schedule(t)
    z_t = alpha(gamma)[:, None] * x + sigma(gamma)[:, None] * eps
    return 0.5 * slope * (eps - z_t - diffusion.denoiser(z_t, gamma)).square().sum(1)


def test_the_schedule_gets_the_gradient_of_the_square_and_the_network_that_of_the_loss():
    diffusion = wavy(LearnedSchedule(-5.0, 4.0, sigmoids=8))
    x, eps = torch.randn(2, 12, 3, dtype=torch.float64)
    t = torch.rand(12, dtype=torch.float64)
    loss = by_hand(diffusion, x, t, eps)
    network = torch.autograd.grad(loss.mean(), diffusion.denoiser.parameters(), retain_graph=True)
    schedule = torch.autograd.grad((loss**2).mean() / 3, diffusion.noise_schedule.parameters())
    estimate = diffusion.loss_at(x, t, None, eps)
    torch.testing.assert_close(estimate, loss)
    estimate.mean().backward()
    for parts, expected in ((diffusion.denoiser, network), (diffusion.noise_schedule, schedule)):
        for parameter, gradient in zip(parts.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_with_steps_the_schedule_gets_the_gradient_of_the_bound():
    diffusion = wavy(LearnedSchedule(-5.0, 4.0, sigmoids=8))
    x, eps = torch.randn(2, 12, 3, dtype=torch.float64)
    t = torch.randint(1, 5, (12,)).double() / 4

    def loss():
        return diffusion.loss_at(x, t, 4, eps).mean()

    parameter = diffusion.noise_schedule.middle
    (gradient,) = torch.autograd.grad(loss(), parameter)
    with torch.no_grad():
        parameter[2] += 1e-5
        above = loss()
        parameter[2] -= 2e-5
        below = loss()
    assert gradient[2].item() == pytest.approx(((above - below) / 2e-5).item(), rel=1e-5)


def test_training_the_schedule_lowers_the_variance_and_leaves_the_bound():
    diffusion = gaussian(LearnedSchedule(-8.0, 8.0, sigmoids=32), variance=1.0)
    t = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    optimizer = torch.optim.Adam(diffusion.noise_schedule.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        losses.append(expected_loss(diffusion, 1.0, t))
        optimizer.zero_grad()
        losses[-1].mean().backward()
        optimizer.step()
    assert losses[-1].var() < 0.2 * losses[0].var()
    assert losses[-1].mean().item() == pytest.approx(losses[0].mean().item(), rel=1e-5)


def test_a_fixed_schedule_has_nothing_to_train():
    diffusion = Diffusion(
        (3,), CosineSchedule(*ENDS), lambda shape, **ends: torch.nn.Identity(), ResidualNoise()
    )
    assert not list(diffusion.parameters()) and not diffusion.state_dict()


def test_the_denoiser_gets_the_end_points():
    told = {}

    def denoiser(event_shape, **ends):
        told.update(ends, event_shape=event_shape)
        return torch.nn.Identity()

    Diffusion((2, 3), LinearSchedule(-7.0, 3.0), denoiser, ResidualNoise())
    assert told == {"gamma_min": -7.0, "gamma_max": 3.0, "event_shape": (2, 3)}


def test_single_precision_keeps_the_weights_of_a_thousand_steps():
    one, other = (wavy(LinearSchedule(*ENDS)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    x, eps = torch.randn(2, 1000, 3, dtype=torch.float64)
    t = torch.arange(1, 1001).double() / 1000
    exact = one.loss_at(x, t, 1000, eps)
    rounded = other.float().loss_at(x.float(), t.float(), 1000, eps.float())
    torch.testing.assert_close(rounded.double(), exact, rtol=2e-3, atol=1e-3)
