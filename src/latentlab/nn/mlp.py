"""Fully connected networks."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from latentlab.nn import Shape
from latentlab.nn.layers import Activation, Normalisation, normalised


class Dense(nn.Module):
    """Hidden layers and a linear output layer, (*, *in_shape) -> (*, *out_shape).

    Args:
        in_shape: the shape of one input, which is flattened.
        out_shape: the shape of one output.
        hidden: the widths of the hidden layers.
        layer: makes a hidden layer from its input and output widths.
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, hidden: Sequence[int], layer: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.in_dims = len(in_shape)
        self.out_shape = tuple(out_shape)
        widths = [prod(in_shape), *hidden]
        layers = [layer(width_in, width_out) for width_in, width_out in pairwise(widths)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], prod(out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        # Normalisations of channels expect (N, C). They would mix the examples of (K, B, C).
        flat = x.flatten(-self.in_dims)
        return self.layers(flat.reshape(-1, flat.shape[-1])).reshape(*flat.shape[:-1], *self.out_shape)


class Linear(Dense):
    r"""The affine map $W x + b$, (*, *in_shape) -> (*, *out_shape).

    Args:
        in_shape: the shape of one input.
        out_shape: the shape of one output.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape, (), nn.Linear)


class MLP(Dense):
    r"""A multilayer perceptron $W_{n+1} \sigma(W_n \dots \sigma(W_1 x + b_1) \dots + b_n) + b_{n+1}$.

    Args:
        in_shape: the shape of one input.
        out_shape: the shape of one output.
        hidden: the widths of the hidden layers.
        activation: makes the nonlinearity $\sigma$.
        normalisation: makes the normalisation before it from its width, such as `torch.nn.LayerNorm`, or None.

    Raises:
        UserError: for batch normalisation and dropout.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[PositiveInt] = (512, 512),
        activation: Activation = nn.ReLU,
        normalisation: Normalisation = None,
    ) -> None:
        def layer(width_in: int, width_out: int) -> nn.Module:
            return normalised(nn.Linear(width_in, width_out), width_out, normalisation, activation)

        super().__init__(in_shape, out_shape, hidden, layer)


class GatedLinear(nn.Module):
    r"""A gated linear layer $(W x + b) \odot \sigma(V x + c)$ (Dauphin et al. 2017, eq. 1)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, 2 * width_out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.linear(x).chunk(2, -1)
        return value * torch.sigmoid(gate)


class GatedMLP(Dense):
    """Gated linear hidden layers and a linear output layer (Tomczak and Welling 2018, section 5).

    Args:
        in_shape: the shape of one input.
        out_shape: the shape of one output.
        hidden: the widths of the hidden layers.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, hidden: Sequence[PositiveInt] = (300, 300)) -> None:
        super().__init__(in_shape, out_shape, hidden, GatedLinear)
