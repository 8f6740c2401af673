"""Exact sums and likelihood estimates."""

import math

import pytest
import torch
from oracles import Z_MAX, all_binary_images, exact_log_likelihood, largest_z, tiny_vae

from latentlab.errors import UserError
from latentlab.evaluation import Tally, active_units, bits_per_dim, log_likelihood, reproducible


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1003])
def test_means_do_not_depend_on_the_batches(batch_size):
    elbo = -100 + 30 * torch.randn(1003)
    tally = Tally()
    for part in elbo.split(batch_size):
        tally.add({"elbo": part, "kl": 2 * part})
    means = tally.means(1003)
    exact = elbo.double()
    assert means["elbo"] == pytest.approx(exact.mean().item(), abs=1e-10)
    assert means["kl"] == pytest.approx(2 * exact.mean().item(), abs=1e-10)
    assert means["elbo_stderr"] == pytest.approx(exact.std(correction=0).item() / math.sqrt(1003), rel=1e-9)
    assert means["num_examples"] == 1003


def test_a_missing_example_is_refused():
    tally = Tally()
    tally.add({"elbo": torch.zeros(9)})
    with pytest.raises(UserError, match="9 examples of 10"):
        tally.means(10)


def test_ranks_are_added():
    tally = Tally()
    tally.add({"elbo": torch.ones(5)})
    assert tally.means(10, add_ranks=lambda sums: 2 * sums)["elbo"] == 1.0


def test_reproducible_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    with reproducible(3, torch.device("cpu")):
        first = torch.randn(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    with reproducible(3, torch.device("cpu")):
        assert torch.equal(torch.randn(2), first)


def wide_vae():
    """A VAE with a q wider than its prior, so that importance weights are bounded."""
    vae = tiny_vae()
    output = vae.posterior.network.layers[-1]
    with torch.no_grad():
        output.weight[1], output.bias[1] = 0.0, 0.4
    return vae


def test_importance_weighted_likelihood_against_quadrature():
    vae, x = wide_vae(), all_binary_images((1, 2, 2))[[2, 7]]
    with torch.no_grad():
        exact = exact_log_likelihood(vae, x)
        # exp(estimate) is unbiased for p(x), for any number of samples.
        estimates = log_likelihood(vae, x.repeat(3000, 1, 1, 1), samples=10, chunk=4).view(3000, 2)
        assert largest_z(estimates.exp(), exact.exp()) < Z_MAX
        assert log_likelihood(vae, x, samples=20_000, chunk=5_000) == pytest.approx(exact, abs=0.01)


def test_chunks_add_up_to_all_samples():
    vae, x = tiny_vae(), all_binary_images((1, 2, 2))[[2, 7]]
    with torch.no_grad():
        torch.manual_seed(1)
        parts = torch.cat([vae(x, samples=size).log_w for size in (4, 4, 2)])
        torch.manual_seed(1)
        chunked = log_likelihood(vae, x, samples=10, chunk=4)
    torch.testing.assert_close(chunked, parts.logsumexp(0) - math.log(10))


def test_likelihood_sums_to_one_over_all_images():
    vae = tiny_vae()
    with torch.no_grad():
        total = exact_log_likelihood(vae, all_binary_images((1, 2, 2))).exp().sum().item()
    assert total == pytest.approx(1.0, abs=1e-12)


def test_bits_per_dim():
    # A uniform density on [0, 1) has 0 nats, and 8 bits over 256 levels.
    assert bits_per_dim(0.0, 784, offset=8.0) == 8.0
    # Fair coins have one bit each.
    assert bits_per_dim(-784 * math.log(2), 784, offset=0.0) == pytest.approx(1.0)


def test_active_units():
    means = torch.stack(
        [torch.linspace(-1, 1, 100), 0.05 * torch.linspace(-1, 1, 100), torch.ones(100)], dim=1
    )
    assert active_units(means) == 1
