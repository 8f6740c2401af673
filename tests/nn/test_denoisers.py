"""The denoisers: their shapes, gradients and inputs, and the embedding of the noise level."""

import math

import pytest
import torch

from latentlab.cli.checks import check_call
from latentlab.errors import UserError
from latentlab.nn.denoisers import MLPDenoiser, NoiseEmbedding
from latentlab.nn.unet import FourierFeatures, UNet, finest_octave

ENDS = {"gamma_min": -13.3, "gamma_max": 5.0}
SMALL = {"channels": (8, 8), "embedding": 8, "groups": 4}


def unet(shape=(1, 8, 8), **options):
    return UNet(shape, **ENDS, **(SMALL | options))


def levels(n):
    return torch.linspace(-13.3, 5.0, n)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 6), (1, 5, 7)])
@pytest.mark.parametrize("channels", [(8,), (8, 16, 8)])
def test_images_of_any_size_come_back_in_their_shape(shape, channels):
    assert unet(shape, channels=channels, blocks=2)(torch.randn(3, *shape), levels(3)).shape == (3, *shape)


@pytest.mark.parametrize("make", [unet, lambda: MLPDenoiser((1, 8, 8), **ENDS, width=8, embedding=8)])
def test_every_parameter_is_trained_once_the_zeros_have_moved(make):
    torch.manual_seed(0)
    network = make()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    target = torch.randn(4, 1, 8, 8)
    for _ in range(3):
        optimizer.zero_grad()
        loss = (network(torch.randn(4, 1, 8, 8), levels(4)) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("make", [unet, lambda: MLPDenoiser((1, 8, 8), **ENDS, width=8, embedding=8)])
def test_each_example_is_denoised_by_itself_and_by_its_own_noise_level(make):
    torch.manual_seed(0)
    network = make().double()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3)
    z, gamma = torch.randn(4, 1, 8, 8, dtype=torch.float64), levels(4).double()
    together = network(z, gamma)
    torch.testing.assert_close(network(z[1:2], gamma[1:2]), together[1:2])
    assert (network(z, gamma.flip(0)) - together).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_fourier_features_are_those_of_the_paper_at_its_noise():
    features = FourierFeatures(2, gamma_min=-13.3)
    z = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    angles = [2**n * math.pi * z for n in (7, 8)]
    expected = torch.cat([z, *(a.sin() for a in angles), *(a.cos() for a in angles)], dim=1)
    torch.testing.assert_close(features.double()(z), expected, rtol=0, atol=1e-4)
    assert features(z).shape[1] == features.channels(1) == 5


def test_the_finest_octave_is_what_the_least_noise_leaves():
    assert [finest_octave(gamma) for gamma in (-13.3, -4.0)] == [8, 1]


def test_without_octaves_the_input_stays_alone():
    z = torch.randn(2, 3, 4, 4)
    assert torch.equal(FourierFeatures(0, -4.0)(z), z)


def test_noise_levels_are_told_apart_at_both_ends():
    embedding = NoiseEmbedding(16, -13.3, 5.0)
    level = torch.tensor([-13.3, -13.2, 4.9, 5.0])
    angles = 1000 * (level + 13.3)[:, None] / 18.3 * embedding.frequencies
    assert embedding.frequencies[[0, -1]].tolist() == pytest.approx([1, 1e-4])
    expected = embedding.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
    torch.testing.assert_close(embedding(level), expected, rtol=1e-3, atol=1e-4)
    assert torch.pdist(embedding(level)).min() > 1e-3


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((6,), {}, "denoiser=mlp"),
        ((1, 8, 8), {"groups": 3}, "denoiser.groups=3"),
        ((1, 8, 8), {"attention": 3}, "denoiser.attention=3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(shape, options, said):
    with pytest.raises(UserError, match=said):
        unet(shape, **options)


@pytest.mark.parametrize("kind", [UNet, MLPDenoiser])
@pytest.mark.parametrize("width", [1, 7])
def test_an_embedding_other_than_sines_and_cosines_is_refused(kind, width):
    with pytest.raises(UserError, match=f"denoiser.embedding={width}: "):
        check_call({"_target_": f"{kind.__module__}.{kind.__name__}", "embedding": width}, "denoiser")
