"""The semi-supervised VAE and the labels that its data keep."""

import json

import pytest
import torch
from commands import QUICK, call, refusal
from oracles import all_binary_images, gauss_hermite

from latentlab.batch import Batch
from latentlab.data.digits import Digits
from latentlab.errors import UserError
from latentlab.likelihoods import BernoulliLikelihood
from latentlab.models.semi import SemiSupervisedVAE
from latentlab.nn.mlp import MLP
from latentlab.objectives import SemiSupervised
from latentlab.posteriors import DiagonalNormalPosterior
from latentlab.priors import StandardNormalPrior
from latentlab.protocols import Threshold

CLASSES = 3


@pytest.fixture
def model():
    def network(in_shape, out_shape):
        return MLP(in_shape, out_shape, hidden=(8,), activation=torch.nn.Tanh)

    torch.manual_seed(0)
    parts = (network, network, DiagonalNormalPosterior, BernoulliLikelihood, StandardNormalPrior)
    return SemiSupervisedVAE(1, *parts, num_classes=CLASSES, x_shape=(1, 2, 2)).double()


def batch():
    x = all_binary_images((1, 2, 2))
    return Batch(x, torch.arange(len(x)) % (CLASSES + 1) - 1)


def exact_log_joint(model, x):
    """log p(x, y) for every class by quadrature over one latent, (B, C)."""
    nodes, weights = gauss_hermite()
    z = nodes[:, None, None].expand(-1, len(x), 1)
    traces = [model.joint(Batch(x, torch.full((len(x),), y)), zs=[z]) for y in range(CLASSES)]
    return torch.stack([(t.log_px_z + weights.log()[:, None]).logsumexp(0) for t in traces], -1)


@torch.no_grad()
def test_the_bound_of_an_image_lies_below_its_density_whatever_its_label(model):
    x = batch()
    exact = exact_log_joint(model, x.x).logsumexp(-1)
    assert exact.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    terms = model.terms(x, samples=5000)
    assert (terms["elbo"] < exact + 1e-3).all()
    parts = terms["reconstruction"] - terms["kl"] - terms["kl_y"]
    torch.testing.assert_close(terms["elbo"], parts)


@torch.no_grad()
def test_the_bound_is_tight_in_y_for_the_optimal_classifier(model):
    joint = model.by_class(batch().x, samples=10)
    best = torch.distributions.Categorical(logits=joint["elbo"])
    torch.testing.assert_close(model._marginal(best, joint)["elbo"], joint["elbo"].logsumexp(-1))


def test_the_gradient_is_that_of_the_labelled_and_unlabelled_bounds(model):
    x, alpha, learned = batch(), 3.0, [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(1)
    value = SemiSupervised(alpha=alpha)(model, x)
    found = torch.autograd.grad(value.sum(), learned, allow_unused=True)
    torch.manual_seed(1)
    joint, q_y = model.by_class(x.x), model.classify(x.x)
    unlabelled = (q_y.probs * joint["elbo"]).sum(-1) + q_y.entropy()
    rows = torch.arange(len(x.y))
    labelled = joint["elbo"][rows, x.y] + alpha * q_y.logits[rows, x.y]
    torch.testing.assert_close(value, unlabelled)
    expected = torch.where(x.y < 0, unlabelled, labelled).sum()
    for a, b in zip(found, torch.autograd.grad(expected, learned, allow_unused=True), strict=True):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b))


def test_accuracy_is_the_share_of_the_most_probable_classes(model):
    x = batch()
    with torch.no_grad():
        right = Batch(x.x, model.classify(x.x).logits.argmax(-1))
        wrong = Batch(x.x, (right.y + 1) % CLASSES)
        assert model.terms(right)["accuracy"].all() and not model.terms(wrong)["accuracy"].any()


def test_labels_are_hidden_in_training_alone_and_balanced():
    whole, data = Digits(Threshold()), Digits(Threshold(), labels=50, label_repeats=3)
    y = data.train.y[: len(whole.train.y)]
    assert (y >= 0).sum() == 50 and (y[y >= 0].bincount() == 5).all()
    assert (y[y >= 0] == whole.train.y[y >= 0]).all() and torch.equal(data.test.y, whole.test.y)
    assert len(data.train.y) == len(whole.train.y) + 100 and (data.train.y >= 0).sum() == 150
    # An evaluation sees each image once.
    once = [torch.cat([each.x for each in own.whole_set("train")]) for own in (data, whole)]
    assert torch.equal(*once) and torch.equal(data.distinct("train").y, y)
    assert data.num_examples == whole.num_examples
    assert data.examples_per_epoch == whole.examples_per_epoch + 100 == len(data.training_set().labels)
    assert torch.equal(Digits(Threshold(), labels=50, seed=9).train.y.unique(), data.train.y.unique())


@pytest.mark.parametrize("labels", [5, 15, 10**5])
def test_labels_that_are_not_equally_many_of_each_class_are_refused(labels):
    with pytest.raises(UserError, match=f"data.labels={labels}: "):
        _ = Digits(Threshold(), labels=labels).train


def test_accuracy_is_a_result(tmp_path):
    done = call(
        "train.py", *QUICK, "model=semi_supervised_vae", "data.labels=10", f"hydra.run.dir={tmp_path}/run"
    )
    assert done.status == 0, done.err
    assert 0 < json.loads((tmp_path / "run/summary.json").read_text())["test/accuracy"] <= 1


@pytest.mark.parametrize(
    ("words", "settings"),
    {
        "needs every label": ("model=conditional_vae", "data.labels=10"),
        "needs a model that infers labels": ("objective=semi_supervised",),
        "a multiple of 10": ("model=semi_supervised_vae", "data.labels=9"),
    }.items(),
)
def test_labels_and_models_that_do_not_fit_are_refused(words, settings):
    assert words in refusal(call("train.py", *QUICK, *settings))
