"""Diffusions of labelled images: the bound, the dropout of labels, guidance."""

from math import log

import pytest
import torch
from gaussian_diffusion import Wavy
from oracles import Z_MAX, largest_z
from torch import nn

from latentlab.batch import Batch
from latentlab.cli.evaluating import change_sampling
from latentlab.errors import UserError
from latentlab.models.samplers import DDIM
from latentlab.models.vdm import VDM
from latentlab.nn.denoisers import MLPDenoiser
from latentlab.protocols import Threshold
from latentlab.schedules import LinearSchedule, alpha, sigma
from latentlab.weightings import Simple

CLASSES = 3
X = Batch(torch.ones(6, 1, 1, 2).double(), torch.tensor([0, 1, 2, 0, 1, 2]))


class Shifted(nn.Module):
    """The optimal prediction of the noise for x ~ N(means[y], I): it is linear in z_t and in the mean."""

    def __init__(self, means):
        super().__init__()
        self.register_buffer("means", means)

    def forward(self, z_t, gamma_t, y):
        gamma = gamma_t.view(-1, *[1] * (z_t.ndim - 1))
        mean = self.means[y].view(gamma.shape)
        return sigma(gamma) * (z_t - alpha(gamma) * mean) - z_t  # read as a residual


MEANS = torch.tensor([-1.0, 0.5, 2.0, 0.3], dtype=torch.float64)  # the last is that of no class


def model(denoiser=None, **options):
    denoiser = denoiser or (lambda shape, **told: Shifted(MEANS))
    settings = {"num_classes": CLASSES, "steps": 4, "eval_steps": [2], "log_odds": False} | options
    made = VDM(LinearSchedule(-3.0, 5.0), denoiser, Threshold(), x_shape=(1, 1, 2), **settings)
    return made.double().eval()


def test_the_bound_is_on_images_and_labels():
    terms = model().test_terms(X)
    log_py = torch.full((6,), -log(CLASSES), dtype=torch.float64)
    torch.testing.assert_close(terms["log_py"], log_py)
    torch.testing.assert_close(terms["elbo"], terms["elbo_x_given_y"] + log_py)
    torch.testing.assert_close(terms["elbo"], terms["reconstruction"] + log_py - terms["kl"])
    torch.manual_seed(0)
    weighted = model().weighted_terms(X, Simple())
    torch.testing.assert_close(
        weighted["weighted_elbo"], weighted["elbo"] + weighted["kl_diffusion"] - weighted["simple_loss"]
    )


def test_the_bound_given_a_class_is_that_of_a_model_of_it_alone():
    torch.manual_seed(0)
    given = model().terms(X)["elbo_x_given_y"]
    for y in range(CLASSES):
        same = MEANS[[y] * 4]
        alone = model(lambda shape, same=same, **told: Shifted(same))
        torch.manual_seed(0)
        torch.testing.assert_close(alone.terms(X)["elbo_x_given_y"][X.y == y], given[X.y == y])


def test_labels_are_dropped_in_training_alone():
    seen = []

    class Watching(Shifted):
        def forward(self, z_t, gamma_t, y):
            seen.append(y)
            return super().forward(z_t, gamma_t, y)

    watched = model(lambda shape, **told: Watching(MEANS), label_dropout=0.25)
    many = Batch(X.x[:1].expand(20_000, -1, -1, -1), torch.arange(20_000) % CLASSES)
    watched.terms(many)
    assert torch.equal(seen.pop(), many.y)
    watched.train().terms(many)
    dropped = seen.pop() == CLASSES
    assert largest_z(dropped.double(), torch.tensor(0.25, dtype=torch.float64)) < Z_MAX
    assert not dropped.all() and torch.equal(many.y, torch.arange(20_000) % CLASSES)


def test_guidance_moves_samples_away_from_those_without_a_class():
    """Both predictions are linear in their mean, so that guidance samples the mean (1 + w) m_y - w m."""
    guided = model(guidance=2.0, sampler=DDIM(), sample_steps=7)
    y = torch.full((4,), 2)
    target = 3 * MEANS[2] - 2 * MEANS[CLASSES]
    plain = model(lambda shape, **told: Shifted(target.expand(4)), sampler=DDIM(), sample_steps=7)
    samples = []
    for each in (guided, plain):
        torch.manual_seed(0)
        samples.append(each.sample_prior(4, y=y))
    torch.testing.assert_close(*samples)


def test_samples_have_their_class():
    """z_t ~ N(alpha_t m_y, 1), and a deterministic path keeps z_t - alpha_t m_y in the limit of many steps."""
    made, ends = model(sampler=DDIM(), sample_steps=300), torch.tensor([-3.0, 5.0], dtype=torch.float64)
    samples = []
    for y in range(CLASSES):
        torch.manual_seed(0)
        samples.append(made.sample_prior(1, y=torch.tensor([y]))[0, 0, 0, 0])
    expected = (alpha(ends[0]) - alpha(ends[1])) * MEANS[:CLASSES].diff()
    torch.testing.assert_close(torch.stack(samples).diff(), expected, rtol=0.02, atol=0)


def test_the_networks_embed_classes():
    made = model(lambda shape, **told: MLPDenoiser(shape, width=8, blocks=1, embedding=8, **told))
    assert made.diffusion.denoiser.noise.classes.num_embeddings == CLASSES + 1
    assert made.generate(2).shape == made.generate(2, y=torch.tensor([0, 2])).shape == (2, 1, 1, 2)
    assert MLPDenoiser((2,), -1.0, 1.0, width=8, blocks=1, embedding=8).noise.classes is None


@pytest.mark.parametrize("options", [{"num_classes": None}, {"label_dropout": 0.0}])
def test_guidance_needs_a_denoiser_with_and_without_classes(options):
    with pytest.raises(UserError, match=r"guidance=1.0 .*model.num_classes"):
        model(lambda shape, **told: Wavy(shape), guidance=1.0, **options)


def test_more_classes_than_those_of_the_model_are_refused():
    with pytest.raises(UserError, match=r"model.num_classes=3.*model.num_classes=10"):
        model().check_classes(10)


def test_an_evaluation_changes_the_sampling():
    made = model(sampler=DDIM(), sample_steps=7)
    change_sampling({"steps": 3, "eta": 1.0, "guidance": 0.5}, made)
    assert (made.sample_steps, made.sampler, made.guidance) == (3, DDIM(1.0), 0.5)
    change_sampling({"steps": None, "eta": None, "guidance": None}, made)
    assert made.sample_steps == 3
    with pytest.raises(UserError, match=r"sampling.steps=3: Linear has no diffusion"):
        change_sampling({"steps": 3}, nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"guidance=2.0"):
        change_sampling(
            {"guidance": 2.0}, model(num_classes=None, denoiser=lambda shape, **told: Wavy(shape))
        )
