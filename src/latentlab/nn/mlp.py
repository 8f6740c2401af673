"""The multilayer perceptron."""

from collections.abc import Callable, Sequence
from math import prod

from pydantic import PositiveInt
from torch import Tensor, nn

from latentlab.nn import Shape


class MLP(nn.Module):
    r"""A multilayer perceptron $W_{n+1} \sigma(W_n \dots \sigma(W_1 x + b_1) \dots + b_n) + b_{n+1}$.

    Maps (*, *in_shape) to (*, *out_shape).

    Args:
        in_shape: the shape of one input, flattened on the way in.
        out_shape: the shape of one output.
        hidden: the widths of the hidden layers.
        activation: makes the nonlinearity $\sigma$.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[PositiveInt] = (512, 512),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.in_dims = len(in_shape)
        self.out_shape = tuple(out_shape)
        widths = [prod(in_shape), *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(width_in, width_out), activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], prod(out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        """(*, *in_shape) -> (*, *out_shape)."""
        return self.layers(x.flatten(-self.in_dims)).unflatten(-1, self.out_shape)
