"""Networks: shapes for any leading dimensions, gradients, refused layers."""

from functools import partial

import pytest
import torch
from torch import nn

from latentlab.errors import UserError
from latentlab.nn.conv import ConvDecoder, ConvEncoder, doubling
from latentlab.nn.layers import GroupNorm
from latentlab.nn.mlp import MLP, GatedLinear, GatedMLP, Linear
from latentlab.nn.resnet import ResNetDecoder, ResNetEncoder

DENSE = {
    "linear": Linear,
    "mlp": partial(MLP, hidden=(8, 8)),
    "mlp_norm": partial(MLP, hidden=(8,), normalisation=nn.LayerNorm),
    # The width equals the batch sizes in LEADS, so that mixing up channels and examples raises no error.
    "mlp_groups": partial(MLP, hidden=(4,), normalisation=partial(GroupNorm, groups=2)),
    "gated_mlp": partial(GatedMLP, hidden=(8, 8)),
}
SMALL = {"channels": (8, 16), "hidden": (8,)}
ENCODERS = {
    **DENSE,
    "cnn": partial(ConvEncoder, **SMALL),
    "cnn_norm": partial(ConvEncoder, **SMALL, normalisation=GroupNorm),
    "resnet": partial(ResNetEncoder, **SMALL),
}
DECODERS = {
    **DENSE,
    "cnn": partial(ConvDecoder, **SMALL),
    "cnn_norm": partial(ConvDecoder, **SMALL, normalisation=GroupNorm),
    "resnet": partial(ResNetDecoder, **SMALL),
}
LEADS = [(), (4,), (1, 4), (3, 4)]


def check(network, in_shape, out_shape, lead):
    x = torch.randn(*lead, *in_shape).double()
    y = network(x)
    assert y.shape == (*lead, *out_shape)
    # The first example alone gives the same.
    alone = network(x.reshape(-1, *in_shape)[:1]).view(out_shape)
    torch.testing.assert_close(y.reshape(-1, *out_shape)[0], alone)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("image", [(1, 28, 28), (3, 9, 7)])
@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders(kind, image, lead):
    check(ENCODERS[kind](image, (2, 5)).double(), image, (2, 5), lead)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("shapes", [((5,), (1, 28, 28)), ((2, 3), (2, 3, 9, 7))])
@pytest.mark.parametrize("kind", DECODERS)
def test_decoders(kind, shapes, lead):
    check(DECODERS[kind](*shapes).double(), *shapes, lead)


@pytest.mark.parametrize(
    "network",
    [
        *[make((1, 8, 8), (2, 3)) for make in ENCODERS.values()],
        *[make((3,), (1, 8, 8)) for make in DECODERS.values()],
    ],
    ids=[*[f"encoder_{kind}" for kind in ENCODERS], *[f"decoder_{kind}" for kind in DECODERS]],
)
def test_every_parameter_gets_a_gradient(network):
    shape = getattr(network, "in_shape", None) or ((3,) if network.out_shape == (1, 8, 8) else (1, 8, 8))
    network(torch.randn(16, *shape)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gated_linear_is_the_product():
    layer = GatedLinear(3, 2).double()
    x = torch.randn(5, 3).double()
    (w, v), (b, c) = layer.linear.weight.chunk(2), layer.linear.bias.chunk(2)
    torch.testing.assert_close(layer(x), (x @ w.T + b) * torch.sigmoid(x @ v.T + c))


def test_mlp_is_made_of_its_layers():
    network = MLP((3,), (2,), hidden=(4,), activation=nn.Tanh).double()
    x = torch.randn(5, 3).double()
    (w1, b1, w2, b2) = network.parameters()
    torch.testing.assert_close(network(x), (x @ w1.T + b1).tanh() @ w2.T + b2)


def test_doubling_has_no_checkerboard():
    # With equal weights and inputs, all inner pixels have the same sum.
    layer = doubling(1, 1)
    nn.init.ones_(layer.weight)
    maps = layer(torch.ones(1, 1, 7, 7))[..., 1:-1, 1:-1]
    assert (maps == maps[0, 0, 0, 0]).all()


@pytest.mark.parametrize("refused", [nn.BatchNorm2d, nn.BatchNorm1d, lambda width: nn.Dropout(0.1)])
@pytest.mark.parametrize(
    "make",
    [
        partial(MLP, (1, 8, 8), (2, 3)),
        partial(ConvEncoder, (1, 8, 8), (2, 3)),
        partial(ConvDecoder, (3,), (1, 8, 8)),
        partial(ResNetEncoder, (1, 8, 8), (2, 3)),
        partial(ResNetDecoder, (3,), (1, 8, 8)),
    ],
)
def test_layers_that_couple_examples_or_passes_are_refused(make, refused):
    with pytest.raises(UserError, match="normalisation=null"):
        make(normalisation=refused)
    with pytest.raises(UserError, match="normalisation=null"):
        make(activation=nn.Dropout)


def test_shapes_that_are_not_images_are_refused():
    with pytest.raises(UserError, match="use encoder=mlp"):
        ConvEncoder((5,), (2, 3))
    with pytest.raises(UserError, match="use decoder=mlp"):
        ResNetDecoder((5,), (2, 3))
    with pytest.raises(UserError, match="groups=5 does not divide"):
        ConvEncoder((1, 8, 8), (2, 3), normalisation=partial(GroupNorm, groups=5))
