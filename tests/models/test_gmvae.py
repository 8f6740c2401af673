"""The GMVAE and its clusters."""

import json
import math
from itertools import permutations

import pytest
import torch
from commands import QUICK, call, refusal
from oracles import all_binary_images, gauss_hermite
from torch.distributions import Categorical

from latentlab.batch import Batch
from latentlab.evaluation import cluster_accuracy, clustering
from latentlab.likelihoods import BernoulliLikelihood
from latentlab.models.gmvae import GMVAE
from latentlab.models.vae import VAE
from latentlab.nn.mlp import MLP
from latentlab.objectives import VLB
from latentlab.posteriors import DiagonalNormalPosterior
from latentlab.priors import MixtureOfGaussiansPrior, StandardNormalPrior


def network(in_shape, out_shape):
    return MLP(in_shape, out_shape, hidden=(8,), activation=torch.nn.Tanh)


def gmvae(clusters, **options):
    def prior(**shapes):
        return MixtureOfGaussiansPrior(**shapes, num_components=clusters)

    torch.manual_seed(0)
    parts = (network, network, DiagonalNormalPosterior, BernoulliLikelihood, prior)
    return GMVAE(1, *parts, x_shape=(1, 2, 2), **options).double()


def exact_log_px_y(model, x):
    """log p(x|y) for every cluster by quadrature over one latent, (B, C)."""
    nodes, weights = gauss_hermite()
    columns = []
    for mean, log_scale in zip(model.prior.means, model.prior.log_scales, strict=True):
        z = (mean + log_scale.exp() * nodes[:, None])[:, None].expand(-1, len(x), 1)
        columns.append((model.likelihood(z).log_prob(x) + weights.log()[:, None]).logsumexp(0))
    return torch.stack(columns, -1)


@torch.no_grad()
def test_the_bound_lies_below_the_density():
    model, x = gmvae(3), all_binary_images((1, 2, 2))
    model.prior.logits.copy_(torch.tensor([0.5, -1.0, 0.2]))
    exact = (exact_log_px_y(model, x) + model.weights.logits).logsumexp(-1)
    assert exact.exp().sum().item() == pytest.approx(1.0, abs=1e-10)
    terms = model.terms(x, samples=5000)
    assert (terms["elbo"] < exact + 1e-3).all()
    torch.testing.assert_close(terms["elbo"], terms["reconstruction"] - terms["kl"] - terms["kl_y"])


def test_a_uniform_p_y_is_not_learned():
    model, x = gmvae(3, learned_weights=False), all_binary_images((1, 2, 2))
    VLB()(model, x).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == ["prior.logits"]
    torch.testing.assert_close(model.terms(x)["kl_y"], math.log(3) - model.classify(x).entropy())


@torch.no_grad()
def test_the_sum_over_clusters_is_exact():
    model, x = gmvae(3), all_binary_images((1, 2, 2))
    torch.manual_seed(1)
    found = model.terms(x, samples=4)["elbo"]
    torch.manual_seed(1)
    expected = torch.zeros(len(x)).double()
    log_q, log_p = model.classify(x).logits, model.prior.logits.log_softmax(-1)
    for y in range(3):
        bound = model.given(x, torch.full((len(x),), y), samples=4).terms()["elbo"]
        expected += log_q[:, y].exp() * (bound + log_p[y] - log_q[:, y])
    torch.testing.assert_close(found, expected)
    torch.manual_seed(1)
    bounds = model.by_cluster(x, samples=4)["elbo"]
    model.classify = lambda x: Categorical(logits=bounds + log_p)  # the best q(y|x)
    torch.manual_seed(1)
    torch.testing.assert_close(model.terms(x, samples=4)["elbo"], (bounds + log_p).logsumexp(-1))


def test_one_standard_normal_cluster_is_a_vae():
    model, x = gmvae(1), all_binary_images((1, 2, 2))
    with torch.no_grad():
        model.prior.means.zero_()
        model.planes.weight.zero_()
    parts = (network, network, DiagonalNormalPosterior, BernoulliLikelihood, StandardNormalPrior)
    vae = VAE(1, *parts, x_shape=(1, 2, 2)).double()
    vae.likelihood = model.likelihood
    q = model.posterior
    vae.posterior.forward = lambda x: q(torch.cat([x, torch.zeros_like(x)], 1))
    torch.manual_seed(1)
    found = VLB()(model, x)
    torch.manual_seed(1)
    expected = vae.terms(x)["elbo"]
    torch.testing.assert_close(found, expected)
    learned = [*model.likelihood.parameters(), *q.parameters()]
    gradients = (torch.autograd.grad(value.sum(), learned) for value in (found, expected))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_samples_of_a_cluster_have_its_mean():
    model, n = gmvae(2), 20_000
    x = model.generate(n, y=torch.ones(n, dtype=torch.int64)).flatten(1)
    images = all_binary_images((1, 2, 2))
    exact = exact_log_px_y(model, images)[:, 1].exp() @ images.flatten(1)
    assert (
        (x.mean(0) - exact).abs() < 5 * (exact * (1 - exact) / n).sqrt()
    ).all()  # fails once in 10^6 seeds


@pytest.mark.parametrize("clusters", [2, 3, 5])
def test_cluster_accuracy_is_the_best_of_all_assignments(clusters):
    torch.manual_seed(clusters)
    found, labels = torch.randint(clusters, (60,)), torch.randint(3, (60,))
    names = [*range(3), *([-1] * clusters)]
    best = max(
        (torch.tensor([names[i] for i in order])[found] == labels).double().mean().item()
        for order in set(permutations(range(len(names)), clusters))
    )
    assert cluster_accuracy(found, labels) == pytest.approx(best)


def test_examples_without_a_label_do_not_count():
    model, x = gmvae(3), all_binary_images((1, 2, 2))
    with torch.no_grad():
        y = model.clusters(x)
    assert clustering(model, [Batch(x, (y + 1) % 3)]) == {"cluster_accuracy": 1.0}
    assert clustering(model, [Batch(x, torch.full_like(y, -1))]) == {}


def test_cluster_accuracy_is_a_result(tmp_path):
    run = f"{tmp_path}/run"
    settings = (*QUICK, "model=gmvae", "prior.num_components=3", f"hydra.run.dir={run}")
    assert call("train.py", *settings).status == 0
    assert call("evaluate.py", f"run={run}").status == 0
    results = json.loads((tmp_path / "run/evaluation.json").read_text())
    accuracy = results.get("results", results)["test/cluster_accuracy"]
    assert 0.1 < accuracy <= 1 and math.isfinite(results.get("results", results)["test/elbo"])


@pytest.mark.parametrize(
    ("words", "setting"),
    {"is no mixture": "prior=standard_normal", "num_components=0": "prior.num_components=0"}.items(),
)
def test_a_gmvae_without_clusters_is_refused(words, setting):
    assert words in refusal(call("train.py", *QUICK, "model=gmvae", setting))
