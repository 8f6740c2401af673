"""Exact sums and likelihood estimates."""

import math

import pytest
import torch
from gaussian_diffusion import gaussian
from linear_gaussian import LinearGaussian
from oracles import Z_MAX, all_binary_images, exact_log_likelihood, gauss_hermite, largest_z, tiny_vae
from parts import assembled, built, examples
from torch.distributions import Independent, Normal, kl_divergence

from latentlab.batch import BLOCK
from latentlab.data.loader import EvaluationLoader
from latentlab.draws import reproducible
from latentlab.errors import UserError
from latentlab.evaluation import (
    EVALUATION_SEED,
    Ranks,
    Tally,
    active_units,
    bits_per_dim,
    estimate,
    identification,
    information,
    log_likelihood,
    nll,
    repeated,
    repeats,
)
from latentlab.protocols import Threshold
from latentlab.schedules import LinearSchedule


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


@pytest.mark.parametrize(("samples", "sizes"), [(1, [1]), (3, [1, 1, 1]), (4, [1] * 4), (9, [3, 2, 2, 2])])
def test_repeats_make_all_draws(samples, sizes):
    assert repeats(samples) == sizes


def errors(terms, x, samples):
    """The mean and its squared errors in one evaluation of x (N, D): (elbo, stderr^2, mc_stderr^2)."""
    tally = Tally()
    for part in x.split(3 * BLOCK):
        tally.add(*repeated(terms, part, samples, "elbo"))
    means = tally.means(len(x))
    return torch.tensor([means["elbo"], means["elbo_stderr"] ** 2, means["elbo_mc_stderr"] ** 2]).double()


class Ratio(LinearGaussian):
    """Scores by the log importance weight, whose variance has a closed form."""

    def terms(self, x, samples=1):
        return {"elbo": self(x, samples=samples).log_w.mean(0)}

    def noise(self, x):
        """The variance of log w at x (N, D), for one layer: that of a quadratic form of standard normals, (N,)."""
        (q,), (p, prior) = self.q, self.p

        def quadratic(weight, residual, covariance):  # of -|C^-1 (residual - weight eps)|^2 / 2
            scaled = torch.linalg.solve(covariance, weight)
            return -weight.mT @ scaled, (residual @ scaled)

        z = q.affine(x)
        a1, b1 = quadratic(p.weight @ q.tril, x - p.affine(z), p.covariance)
        a2, b2 = quadratic(-q.tril, z - prior.bias, prior.covariance)
        a, b = a1 + a2 + torch.eye(len(q.tril)), b1 + b2
        return (a @ a).trace() / 2 + b.square().sum(-1)


def test_the_error_is_the_spread_over_examples_and_that_of_the_draws():
    torch.manual_seed(0)
    samples = 9
    model = Ratio([3, 2]).requires_grad_(False)
    x = 2 * torch.randn(BLOCK + 7, 3).double()
    exact = torch.stack([model.exact_elbo(each) for each in x])
    found = torch.stack([errors(model.terms, x, samples) for _ in range(150)])
    monte_carlo = model.noise(x).sum() / samples / len(x) ** 2
    spread = exact.var(correction=0) / len(x)
    expected = torch.stack([exact.mean(), spread + (1 - 1 / len(x)) * monte_carlo, monte_carlo])
    assert largest_z(found, expected) < Z_MAX
    assert largest_z((found[:, 0] - exact.mean()) ** 2, monte_carlo) < Z_MAX


def test_the_error_of_evenly_spaced_times_is_not_an_upper_limit():
    # Examples of a block share their times, so that their errors cancel.
    diffusion = gaussian(LinearSchedule(-6, 5))
    x = torch.linspace(-2, 2, 2 * BLOCK).double()[:, None]

    def terms(x, samples):
        parts = [t.square() * (1 + x[:, 0] / 5) for t in diffusion.times(len(x), samples)]
        return {"elbo": torch.stack(parts).mean(0)}

    torch.manual_seed(0)
    found = torch.stack([errors(by_block(terms), x, 8) for _ in range(150)])
    actual = (found[:, 0] - (1 + x / 5).mean() / 3) ** 2
    assert largest_z(found[:, 2] - actual, torch.zeros(())) < Z_MAX
    independent = (1 + x / 5).square().mean() * (1 / 5 - 1 / 9) / 8 / len(x)
    assert found[:, 2].mean() < independent / 5


def by_block(terms):
    return lambda x, samples: {"elbo": torch.cat([terms(block, samples)["elbo"] for block in x.split(BLOCK)])}


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


def test_the_likelihood_is_the_same_on_two_devices():
    model, (x, y) = built(assembled("vae")).model.eval(), examples(Threshold(), 7 * BLOCK + 9)
    alone = nll(model, EvaluationLoader(x, y, 3 * BLOCK), 5, 5, len(y))
    first, second = (EvaluationLoader(x, y, 3 * BLOCK, rank, 2) for rank in (0, 1))
    sums = []  # those of the second rank, which the first one adds to its own
    with pytest.raises(UserError, match="159 examples of 359"):
        nll(model, second, 5, 5, len(y), Ranks(1, 2, lambda own: sums.append(own) or own))
    shared = nll(model, first, 5, 5, len(y), Ranks(0, 2, lambda own: own + sums[0]))
    assert shared == pytest.approx(alone, rel=1e-12)


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


def test_bits_per_dim_of_the_likelihood_of_a_class():
    model, protocol = built(assembled("conditional_vae")).model.eval(), Threshold()
    means = {"elbo": -500.0, "elbo_x_given_y": -498.0, "log_py": -2.0}
    found = estimate(model, [examples(protocol, 9)], 9, protocol, means, nll_samples=3)
    bits = {name: value * 784 * math.log(2) for name, value in found.items() if name.startswith("bits")}
    assert bits == {
        "bits_per_dim": pytest.approx(500),
        "bits_per_dim_x_given_y": pytest.approx(498),
        "bits_per_dim_nll": pytest.approx(found["nll"]),
        "bits_per_dim_nll_x_given_y": pytest.approx(found["nll"] - 2),
    }
    assert found["nll_x_given_y"] == found["nll"] - 2


def test_active_units():
    means = torch.stack(
        [torch.linspace(-1, 1, 100), 0.05 * torch.linspace(-1, 1, 100), torch.ones(100)], dim=1
    )
    assert active_units(means) == 1


def normals(locs, scale):
    return Independent(Normal(locs, torch.full_like(locs, scale)), 1)


def test_mutual_information_against_quadrature():
    vae, x = tiny_vae(), all_binary_images((1, 2, 2))
    q = vae.posterior(x)
    nodes, weights = gauss_hermite()
    z = q.mean + q.stddev * nodes[:, None, None]  # (points, N, 1)
    marginal = q.log_prob(z[:, :, None]).logsumexp(-1) - math.log(len(x))
    exact = (weights[:, None] * (q.log_prob(z) - marginal)).sum(0).mean()
    torch.manual_seed(0)
    draws = torch.stack([identification(z, [q]) for z in q.sample((1000,))]).mean(1)
    assert largest_z(draws, exact) < Z_MAX
    blocks = [vae.posterior(part) for part in x.split(3)]
    torch.testing.assert_close(identification(z[0], blocks), identification(z[0], [q]))


def test_mutual_information_of_linear_normals():
    # For x ~ N(0, 1) and q(z|x) = N(w x + b, s^2), q(z) = N(b, w^2 + s^2) and I(x; z) = log(1 + w^2 / s^2) / 2.
    torch.manual_seed(0)
    w, b, s, n = 0.9, 0.3, 0.5, 1500
    q = normals(w * torch.randn(n, 1).double() + b, s)
    found = identification(q.sample(), [q]).mean().item()
    assert found == pytest.approx(0.5 * math.log(1 + (w / s) ** 2), abs=0.04)
    aggregate = Normal(torch.tensor(b), math.sqrt(w**2 + s**2))
    exact = kl_divergence(aggregate, Normal(torch.zeros(()), torch.ones(()))).item()
    kl = kl_divergence(q.base_dist, Normal(torch.zeros(1), torch.ones(1))).mean().item()
    assert kl - found == pytest.approx(exact, abs=0.04)


def test_latents_that_tell_nothing_or_everything():
    torch.manual_seed(0)
    same, apart = normals(torch.zeros(60, 2), 1.0), normals(torch.arange(60.0)[:, None], 1e-3)
    torch.testing.assert_close(identification(same.sample(), [same]), torch.zeros(60).double())
    everything = torch.full((60,), math.log(60)).double()
    torch.testing.assert_close(identification(apart.sample(), [apart]), everything)


MODELS = {
    "vae": {},
    "mog_vae": {},
    "vae, full rank": {"posterior": "full_rank_normal"},
    "conditional_vae": {},
    "categorical_vae": {},
    "hierarchical_vae": {},
    "ladder_vae": {},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_of_the_kl_add_up_to_the_reported_kl(name):
    torch.manual_seed(0)
    config = assembled(name.partition(",")[0], **MODELS[name])
    model = built(config).model.eval()
    xs = [model.observe(examples(Threshold(), n)) for n in (BLOCK, 9)]
    reported = Tally()
    for index, x in enumerate(xs):
        with torch.no_grad(), reproducible(EVALUATION_SEED + index * BLOCK, x.device):
            reported.add(*repeated(model.terms, x, 6, "elbo"))
    found = information(model, xs, BLOCK + 9, samples=6)
    end = f"_{len(model.z_shapes)}" if name == "ladder_vae" else ""
    parts = found[f"mutual_information{end}"], found[f"aggregate_kl{end}"]
    assert sum(parts) == pytest.approx(reported.means(BLOCK + 9)[f"kl{end}"], abs=1e-12)
    assert 0 <= parts[0] <= found["mutual_information_limit"] == math.log(BLOCK + 9)
    assert found[f"aggregate_kl{end}_stderr"] > 0


def test_layers_above_the_first_tell_nothing_more():
    torch.manual_seed(0)
    model = built(assembled("hierarchical_vae")).model.eval()
    x = examples(Threshold(), 5).x
    with torch.no_grad():
        trace = model(x)
        zs = [layer.z[0][:, None].expand(5, 5, -1) for layer in trace.layers]
        joint = model(x, zs=zs).log_qz_x.double()  # log q(z|x_n), a row for each draw
    exact = math.log(5) + (joint.softmax(1) * joint.log_softmax(1)).sum(1)
    torch.testing.assert_close(identification(trace.z[0][0], [trace.layers[0].q]), exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("most", "n"), [(300, 300), (299, 150), (150, 150), (149, 100), (1, 50)])
def test_a_large_test_set_is_thinned(most, n):
    model = built(assembled("vae")).model.eval()
    found = information(model, [examples(Threshold(), BLOCK).x] * 6, 300, examples=most)
    assert found["mutual_information_limit"] == math.log(n)


def test_noise_of_the_draws_does_not_hide_the_spread_over_examples():
    tally = Tally()
    tally.add({"elbo": torch.arange(100.0)}, torch.tensor([1e6, 1e-6]).double())
    means = tally.means(100)
    spread = torch.arange(100.0).std(correction=0).item() / 10
    assert means["elbo_stderr"] == pytest.approx(spread / 2, rel=1e-6)
