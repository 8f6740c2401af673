"""The figures of a diffusion."""

from functools import partial
from math import log
from types import SimpleNamespace

import pytest
import torch
from latentlab.figures.denoising import chains, pictured
from latentlab.figures.loss_by_time import binned, losses
from matplotlib.image import imread
from toy import ToyData, ToyVAE

from latentlab.figures import DenoisingChain, LossByTime, SamplingSteps
from latentlab.figures.drawing import save, undisturbed
from latentlab.likelihoods import BernoulliLikelihood
from latentlab.models.latent_vdm import LatentVDM
from latentlab.models.vdm import VDM
from latentlab.nn.denoiser import MLPDenoiser
from latentlab.nn.mlp import MLP
from latentlab.nn.unet import UNet
from latentlab.posteriors import DiagonalNormalPosterior
from latentlab.protocols import Threshold
from latentlab.schedules import LearnedSchedule, LinearSchedule

LINEAR = LinearSchedule(-4.0, 4.0)


def vdm(schedule=LINEAR, **options):
    denoiser = partial(UNet, channels=(8,), embedding=8)
    return VDM(schedule, denoiser, Threshold(), sample_steps=3, **options)


def latent_vdm(schedule=LINEAR):
    network = partial(MLP, hidden=(8,))
    denoiser = partial(MLPDenoiser, width=8, blocks=1, embedding=8)
    return LatentVDM(
        2, network, network, DiagonalNormalPosterior, BernoulliLikelihood, schedule, denoiser, sample_steps=3
    )


def drawing(figure, model, data=None):
    """What a callback draws of a model beside a test set."""
    module = SimpleNamespace(device=torch.device("cpu"), model=model)
    trainer = SimpleNamespace(lightning_module=module, datamodule=data or ToyData())
    with undisturbed(model):
        return figure.draw(trainer, model)


@pytest.mark.parametrize("make", [vdm, latent_vdm])
@pytest.mark.parametrize("schedule", [LINEAR, LearnedSchedule(-4.0, 4.0, sigmoids=8)])
def test_draws_every_figure(tmp_path, make, schedule):
    model = make(schedule)
    callbacks = [
        DenoisingChain(steps=6, columns=4, samples=2),
        SamplingSteps(steps=(1, 2), rows=2),
        LossByTime(bins=4),
    ]
    figures = [each for callback in callbacks for each in drawing(callback, model).figures.items()]
    assert [name for name, _ in figures] == ["denoising", "sampling_steps", "loss_by_time"]
    for name, figure in figures:
        path = save(figure, tmp_path / f"{name}.png", "caption")
        assert 2_000 < path.stat().st_size < 200_000 and imread(path).shape[0] > 250


@pytest.mark.parametrize("callback", [DenoisingChain(), SamplingSteps(), LossByTime()])
def test_a_model_without_a_diffusion_has_no_such_figures(callback):
    found = drawing(callback, ToyVAE())
    assert not found.figures and not found.tables


def test_a_chain_runs_from_noise_to_data_and_ends_where_sampling_ends():
    model = vdm()
    with torch.no_grad():
        torch.manual_seed(0)
        end = model.diffusion.sample(3, 8)
        torch.manual_seed(0)
        times, noisy, clean = chains(model.diffusion, 3, columns=5, steps=8)
    assert times == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert torch.equal(noisy[-1], end)
    # Untrained, the model knows of a pixel what its own noise leaves.
    gamma = torch.tensor(4.0)
    expected = torch.tanh((-gamma).sigmoid().sqrt() / gamma.sigmoid() * noisy[0])
    torch.testing.assert_close(clean[0], expected, rtol=1e-3, atol=1e-3)
    assert len(chains(model.diffusion, 1, columns=50, steps=2)[0]) == 3


def test_what_is_noised_is_shown_as_images():
    assert torch.equal(pictured(vdm(), torch.full((1, 1, 28, 28), -1.0)), torch.zeros(1, 1, 28, 28))
    model = latent_vdm()
    z = torch.randn(3, 2)
    assert torch.equal(pictured(model, z), model.decode(z))


def test_more_steps_start_from_the_same_noise():
    seen = []

    class Watched(VDM):
        def generate(self, n, mean=False, steps=None, progress=False):
            seen.append((steps, torch.randn(2).tolist()))
            return torch.zeros(n, 1, 28, 28)

    model = Watched(LINEAR, partial(UNet, channels=(8,), embedding=8), Threshold())
    drawing(SamplingSteps(steps=(1, 7), rows=2), model)
    assert [steps for steps, _ in seen] == [1, 7] and seen[0][1] == seen[1][1]


def test_losses_by_time_average_to_the_bound():
    model = vdm(x_shape=(1, 8, 8))
    data = torch.sign(torch.randn(800, 1, 8, 8))
    with torch.no_grad():
        t, loss = losses(model, data)
    rows = binned(t, loss, bins=8)
    assert rows[:, 3].tolist() == [100] * 8
    assert rows[:, 1].mean() == pytest.approx(loss.mean().item())
    # Untrained, all of the bound is that of coins tossed.
    total = rows[:, 1].mean() + model.diffusion.prior_kl(data[:1]).item()
    assert total == pytest.approx(64 * log(2), rel=0.05)
    torch.testing.assert_close(rows[:, 0], (torch.arange(8).double() + 0.5) / 8)


def test_bins_hold_means_and_their_errors():
    t = torch.tensor([0.1, 0.5, 0.5, 0.6, 1.0], dtype=torch.float64)
    rows = binned(t, torch.tensor([1.0, 2.0, 4.0, 6.0, 8.0], dtype=torch.float64), bins=2)
    torch.testing.assert_close(rows[:, 1], torch.tensor([7 / 3, 7.0], dtype=torch.float64))
    error = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).std() / 3**0.5
    torch.testing.assert_close(rows[0, 2], error)


def test_a_bound_of_few_steps_has_few_times():
    t, _ = losses(vdm(steps=4, x_shape=(1, 8, 8)), torch.sign(torch.randn(40, 1, 8, 8)))
    assert set(t.tolist()) == {0.25, 0.5, 0.75, 1.0}


def test_figures_at_the_end_only_are_not_drawn_before(tmp_path):
    callback = SamplingSteps()
    trainer = SimpleNamespace(current_epoch=9, callbacks=[])
    callback.on_train_epoch_end(trainer, None)
    assert callback.every_n_epochs is None
