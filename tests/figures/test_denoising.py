"""The figures of a diffusion."""

from functools import partial
from math import log

import pytest
import torch
from matplotlib.image import imread
from parts import examples

from latentlab.figures import chains, denoising, guided_classes, loss_by_time, sampling_steps, save
from latentlab.figures.diffusion import binned, losses, paths, pictured
from latentlab.likelihoods import BernoulliLikelihood
from latentlab.models.latent_vdm import LatentVDM
from latentlab.models.samplers import DDIM
from latentlab.models.vdm import VDM
from latentlab.nn.denoisers import MLPDenoiser
from latentlab.nn.mlp import MLP
from latentlab.nn.unet import UNet
from latentlab.posteriors import DiagonalNormalPosterior
from latentlab.protocols import Threshold
from latentlab.schedules import LearnedSchedule, LinearSchedule

DATA = [examples(Threshold(), 32)]
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


@pytest.mark.parametrize("make", [vdm, latent_vdm])
@pytest.mark.parametrize("schedule", [LINEAR, LearnedSchedule(-4.0, 4.0, sigmoids=8)])
def test_every_figure_is_a_png_of_modest_size(tmp_path, make, schedule):
    model = make(schedule)
    figures = [
        denoising(model, DATA, steps=6, columns=4, samples=2),
        chains(model, DATA, steps=6, columns=4, samples=2),
        sampling_steps(model, DATA, steps=(1, 2), rows=2),
        loss_by_time(model, DATA, bins=4),
    ]
    for figure in figures:
        path = save(figure, tmp_path / "figure.png", "caption")
        assert 2_000 < path.stat().st_size < 200_000 and imread(path).shape[0] > 250
    assert figures[-1].tables["loss_by_time"].columns == ["t", "loss", "stderr", "examples"]


def test_a_model_of_classes_has_all_figures():
    model = vdm(num_classes=10, sampler=DDIM())
    data = [examples(Threshold(), 32)]
    drawn = guided_classes(model, data, guidance=(0, 1), columns=2, max_rows=3, steps=2)
    assert [axes.get_title() for axes in drawn.axes] == ["guidance 0", "guidance 1"]
    assert guided_classes(vdm(), data) is None
    assert "DDIM" in denoising(model, data, steps=2, columns=2, samples=1).get_suptitle()
    assert loss_by_time(model, data, bins=4).axes


def test_a_path_runs_from_noise_to_data_and_ends_where_sampling_ends():
    model = vdm()
    with torch.no_grad():
        torch.manual_seed(0)
        end = model.diffusion.sample(3, 8)
        torch.manual_seed(0)
        times, noisy, clean = paths(model, 3, columns=5, steps=8)
    assert times == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert torch.equal(noisy[-1], end)
    # Untrained, the model knows of a pixel what its own noise leaves.
    gamma = torch.tensor(4.0)
    expected = torch.tanh((-gamma).sigmoid().sqrt() / gamma.sigmoid() * noisy[0])
    torch.testing.assert_close(clean[0], expected, rtol=1e-3, atol=1e-3)
    assert len(paths(model, 1, columns=50, steps=2)[0]) == 3


def test_noised_images_are_shown():
    assert torch.equal(pictured(vdm(), torch.full((1, 1, 28, 28), -1.0)), torch.zeros(1, 1, 28, 28))
    model = latent_vdm()
    z = torch.randn(3, 2)
    assert torch.equal(pictured(model, z), model.decode(z))


def test_more_steps_start_from_the_same_noise():
    seen = []

    class Watched(VDM):
        def generate(self, n, mean=False, steps=None):
            seen.append((steps, torch.randn(2).tolist()))
            return torch.zeros(n, 1, 28, 28)

    model = Watched(LINEAR, partial(UNet, channels=(8,), embedding=8), Threshold())
    sampling_steps(model, DATA, steps=(1, 7), rows=2)
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
