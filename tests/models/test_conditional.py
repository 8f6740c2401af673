"""The conditional VAE."""

import math

import pytest
import torch
from commands import call, refusal
from hydra.utils import instantiate
from oracles import Z_MAX, all_binary_images, gauss_hermite, largest_z
from parts import composed, digits

from latentlab.batch import Batch
from latentlab.evaluation import log_likelihood
from latentlab.likelihoods import BernoulliLikelihood
from latentlab.models.conditional import ConditionalVAE
from latentlab.nn.mlp import MLP
from latentlab.posteriors import DiagonalNormalPosterior
from latentlab.priors import StandardNormalPrior

CLASSES = 3


def tiny(latent_dim=1, hidden=8, **options):
    def network(in_shape, out_shape):
        return MLP(in_shape, out_shape, hidden=(hidden,), activation=torch.nn.Tanh)

    parts = (network, network, DiagonalNormalPosterior, BernoulliLikelihood, StandardNormalPrior)
    return ConditionalVAE(
        latent_dim, *parts, **({"num_classes": CLASSES, "x_shape": (1, 2, 2)} | options)
    ).double()


def all_pairs():
    x = all_binary_images((1, 2, 2))
    y = torch.arange(CLASSES).repeat_interleave(len(x))
    return Batch(x.repeat(CLASSES, 1, 1, 1), y)


def exact_log_joint(model, batch):
    """log p(x, y) by quadrature over one latent."""
    nodes, weights = gauss_hermite()
    z = nodes[:, None, None].expand(-1, len(batch.x), 1)
    trace = model(batch, zs=[z])
    return (trace.log_px_z + weights.log()[:, None]).logsumexp(0)


def test_the_joint_density_sums_to_one_over_images_and_labels():
    model = tiny(learned_labels=True)
    with torch.no_grad():
        model.label_logits.copy_(torch.tensor([0.3, -1.0, 2.0]))
        total = exact_log_joint(model, all_pairs()).exp().sum().item()
    assert total == pytest.approx(1.0, abs=1e-12)


def test_the_bound_lies_below_the_joint_density_and_its_parts_add_up():
    model, batch = tiny(), all_pairs()
    with torch.no_grad():
        exact = exact_log_joint(model, batch)
        parts = model.terms(batch, samples=5000)
    elbo = parts["elbo"]
    assert (elbo < exact + 1e-3).all()
    torch.testing.assert_close(elbo, parts["reconstruction"] + parts["log_py"] - parts["kl"])
    torch.testing.assert_close(parts["elbo_x_given_y"], elbo + math.log(CLASSES))


def test_importance_weights_estimate_the_joint_density():
    model, batch = tiny(), Batch(*(part[[2, 25, 40]] for part in all_pairs()))
    with torch.no_grad():
        model.posterior.network.layers[-1].weight[1], model.posterior.network.layers[-1].bias[1] = 0.0, 0.4
        exact = exact_log_joint(model, batch)
        many = Batch(batch.x.repeat(2000, 1, 1, 1), batch.y.repeat(2000))
        estimates = log_likelihood(model, many, samples=10, chunk=4).view(2000, 3)
    assert largest_z(estimates.exp(), exact.exp()) < Z_MAX


def test_learned_labels_start_from_their_frequencies_and_uniform_ones_stay():
    batch = Batch(torch.zeros(10, 1, 2, 2), torch.tensor([0] * 7 + [1] * 2 + [2]))
    for learned, expected in ((True, torch.tensor([8, 3, 2]) / 13), (False, torch.full((3,), 1 / 3))):
        model = tiny(learned_labels=learned)
        model.initialise(batch)
        torch.testing.assert_close(model.labels.probs, expected.double())
        assert model.label_logits.requires_grad == learned


def test_decode_averages_over_classes_and_reconstruct_does_not():
    model, batch = tiny(), all_pairs()
    with torch.no_grad():
        z = torch.randn(5, 1).double()
        by_class = torch.stack([model._mean(z, torch.full((5,), y)) for y in range(CLASSES)])
        torch.testing.assert_close(model.decode(z), by_class.mean(0))
        assert model.reconstruct(batch).shape == batch.x.shape


def test_the_label_changes_the_samples():
    torch.manual_seed(0)
    small = ("encoder.hidden=[64]", "decoder.hidden=[64]", "likelihood.initialise_bias=true")
    config = composed("model=conditional_vae", *small)
    module = instantiate(config.module)
    x, y = digits()
    data = Batch(x.gt(127).float(), y)
    module.model.initialise(data)
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    for _ in range(200):
        chosen = torch.randint(len(y), (64,))
        optimizer.zero_grad()
        (-module.objective(module.model, Batch(data.x[chosen], y[chosen])).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        zeros, ones = (
            module.model.generate(200, mean=True, y=torch.full((200,), label)).mean(0) for label in (0, 1)
        )
    true_zeros, true_ones = (data.x[y == label].mean(0) for label in (0, 1))

    def closer(mine, own, other):
        return (mine - own).square().sum() < (mine - other).square().sum()

    assert closer(zeros, true_zeros, true_ones) and closer(ones, true_ones, true_zeros)


def test_refusals(tmp_path):
    quick = ("logger=none", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run")
    said = refusal(call("train.py", "model=conditional_vae", "data=static_mnist", *quick))
    assert "Static MNIST has none" in said
    said = refusal(
        call("train.py", "model=conditional_vae", "data=binarised_digits", "model.num_classes=9", *quick)
    )
    assert "set model.num_classes=10" in said
    said = refusal(call("train.py", "figures=conditional", "data=binarised_digits", *quick))
    assert "~figures.classes" in said and "model=conditional_vae" in said
