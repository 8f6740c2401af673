"""The inference gap and its parts, on a model with a Gaussian posterior in closed form."""

import csv
from functools import partial

import pytest
import torch
import zuko
from commands import call, refusal
from oracles import Z_MAX, tiny_vae
from runs import train
from torch.distributions import MultivariateNormal, kl_divergence

from latentlab import gaps
from latentlab.ais import AIS, log_likelihood
from latentlab.compare.__main__ import main
from latentlab.draws import reproducible
from latentlab.errors import UserError
from latentlab.gaps import Search
from latentlab.likelihoods import GaussianFixedLikelihood
from latentlab.nn.mlp import MLP
from latentlab.posteriors import (
    DiagonalNormalPosterior,
    FullRankNormalPosterior,
    GumbelSoftmaxPosterior,
    Posterior,
)
from latentlab.priors import VampPrior
from latentlab.run.results import read_results

LATENTS, SHAPE, VARIANCE = 3, (1, 2, 3), 0.3
SEARCH = Search(steps=150, samples=30, learning_rate=0.1)


def linear_model(posterior, **parts):
    """A linear-Gaussian model with correlated latents and an untrained, linear encoder."""
    torch.manual_seed(0)
    network = partial(MLP, hidden=())
    likelihood = partial(GaussianFixedLikelihood, variance=VARIANCE)
    vae = tiny_vae(
        LATENTS, SHAPE, encoder=network, decoder=network, posterior=posterior, likelihood=likelihood, **parts
    )
    return vae.eval().requires_grad_(False)


def affine(vae, z):
    return vae.likelihood(z).mean.flatten(1)


def exact(vae, x):
    """log p(x), (B,), and the posterior p(z|x)."""
    bias = affine(vae, torch.zeros(1, LATENTS).double())[0]
    weight = (affine(vae, torch.eye(LATENTS).double()) - bias).T  # (D, latents)
    noise = VARIANCE * torch.eye(len(bias)).double()
    precision = torch.eye(LATENTS).double() + weight.T @ weight / VARIANCE
    mean = (x.flatten(1) - bias) @ weight / VARIANCE @ torch.linalg.inv(precision)
    log_px = MultivariateNormal(bias, weight @ weight.T + noise).log_prob(x.flatten(1))
    return log_px, MultivariateNormal(mean, precision_matrix=precision)


def as_normal(q):
    """A posterior q(z|x) as a normal distribution with a full covariance."""
    if isinstance(q, MultivariateNormal):
        return q
    return MultivariateNormal(q.mean, scale_tril=q.base_dist.scale.diag_embed())


def least(p, posterior):
    """The smallest KL(q || p) of a family of normal distributions: Bishop 2006, section 10.1.2, for the diagonal."""
    if posterior is FullRankNormalPosterior:
        return torch.zeros(p.batch_shape).double()
    precision = p.precision_matrix
    return 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - precision.logdet())


both = pytest.mark.parametrize("posterior", [DiagonalNormalPosterior, FullRankNormalPosterior])


@both
def test_the_optimised_posterior_is_the_best_of_its_family(posterior):
    vae, x = linear_model(posterior), torch.randn(6, *SHAPE).double()
    _, p = exact(vae, x)
    local = gaps.localised(vae, x)
    change = gaps.optimise(local, x, SEARCH)
    found = kl_divergence(as_normal(local.posterior(x)), p)
    torch.testing.assert_close(found, least(p, posterior), atol=0.003, rtol=0)
    assert (change.abs() < 0.02).all()


@both
def test_gaps_are_differences_of_kl_divergences(posterior):
    vae, x = linear_model(posterior), torch.randn(6, *SHAPE).double()
    log_px, p = exact(vae, x)
    with reproducible(1, torch.device("cpu")):
        found = gaps.gaps(vae, x, lambda local, x: log_px, SEARCH)
        log_w = vae(x, samples=1000).log_w
    whole, best = kl_divergence(as_normal(vae.posterior(x)), p), least(p, posterior)
    # The bounds are means over 1,000 draws. A right gap fails one of 18 comparisons in 8,000 runs.
    error = Z_MAX * log_w.std(0).max().item() / gaps.BOUND_DRAWS**0.5
    for name, wanted in zip(gaps.NAMES, (whole, best, whole - best), strict=True):
        torch.testing.assert_close(found[name], wanted, atol=error, rtol=0)
    assert found["approximation_gap"].std() < 0.05


@pytest.mark.parametrize(
    "log_px",
    [gaps.importance_weighted(200), partial(log_likelihood, ais=AIS(chains=2, steps=5))],
    ids=["importance", "ais"],
)
def test_estimates_from_the_optimised_posterior_find_the_likelihood(log_px):
    vae, x = linear_model(FullRankNormalPosterior), torch.randn(6, *SHAPE).double()
    found = gaps.estimate(vae, [x], log_px, SEARCH)
    assert abs(found["approximation_gap"]) < 0.01
    assert found["inference_gap"] == pytest.approx(found["approximation_gap"] + found["amortisation_gap"])
    assert 0 < found["amortisation_gap_stderr"] < found["amortisation_gap"]


class FlowPosterior(Posterior):
    """A flow whose context is the network's output."""

    def __init__(self, network, in_shape, latent_dim):
        super().__init__(in_shape, (latent_dim,))
        self.network = network(self.in_shape, (4,))
        self.flow = zuko.flows.MAF(latent_dim, 4, transforms=1, hidden_features=[8])

    def forward(self, x):
        return self.flow(self.network(x))


def test_a_flow_keeps_its_weights_and_gets_another_context():
    vae, x = linear_model(FlowPosterior), torch.randn(4, *SHAPE).double()
    local, z = gaps.localised(vae, x), torch.zeros(4, LATENTS).double()
    before = vae.posterior(x).log_prob(z)
    old = local.posterior.network.output.detach().clone()
    gaps.optimise(local, x, Search(steps=20, samples=5, learning_rate=0.05))
    assert not torch.equal(local.posterior.network.output, old)
    bounds = []
    for each in (vae, local):
        with reproducible(2, torch.device("cpu")):
            bounds.append(gaps.elbo(each, x, 500).mean())
    assert bounds[1] > bounds[0] + 0.1
    assert torch.equal(vae.posterior(x).log_prob(z), before)


def test_a_prior_that_uses_the_encoder_stays():
    vae, x = (
        linear_model(DiagonalNormalPosterior, prior=partial(VampPrior, num_components=3)),
        torch.rand(4, *SHAPE).double(),
    )
    local = gaps.localised(vae, x)
    z = torch.randn(2, 4, LATENTS).double()
    assert torch.equal(local(x, zs=[z]).log_w, vae(x, zs=[z]).log_w)
    gaps.optimise(local, x, Search(steps=2))
    assert torch.equal(local.prior().log_prob(z), vae.prior().log_prob(z))


def test_other_models_are_refused():
    with pytest.raises(UserError, match="GumbelSoftmaxPosterior"):
        gaps.check(linear_model(GumbelSoftmaxPosterior))
    with pytest.raises(UserError, match="single layer"):
        gaps.check(torch.nn.Linear(1, 1))


def test_gaps_of_runs_are_compared(tmp_path):
    quiet = ("nll.samples=0", "mutual_information.examples=0", "figures.draw=false", "gaps.nll_samples=20")
    for seed in (1, 2):
        run = train(tmp_path / f"runs/{seed}", "decoder.hidden=[8]", f"seed={seed}")
        done = call("evaluate.py", f"run={run}", "gaps.examples=4", "gaps.steps=4", "gaps.samples=2", *quiet)
        assert done.status == 0, done.err
    found = read_results(run / "evaluation.json")
    assert found["test/inference_gap"] == pytest.approx(
        found["test/approximation_gap"] + found["test/amortisation_gap"]
    )
    assert found["settings"]["gaps.nll_samples"] == 20
    for name in ("gaps.png", "gaps.csv"):
        main([str(tmp_path / "runs"), "figure=gaps", f"out={tmp_path}/{name}"])
    with (tmp_path / "gaps.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["runs"] == "2"
    assert "gaps.examples=5000" in refusal(call("evaluate.py", f"run={run}", "gaps.examples=5000", *quiet))


def test_a_flow_posterior_trains_and_is_taken_apart_by_the_commands(tmp_path):
    flow = ("posterior=iaf", "objective=elbo", "posterior.flow.hidden_features=[8]", "model.latent_dim=4")
    run = train(tmp_path / "run", *flow)
    quiet = ("nll.samples=0", "mutual_information.examples=0", "figures.draw=false", "gaps.nll_samples=5")
    done = call("evaluate.py", f"run={run}", "gaps.examples=20", "gaps.steps=2", "gaps.samples=8", *quiet)
    assert done.status == 0, done.err
    assert "test/approximation_gap" in read_results(run / "evaluation.json")
