"""Networks: tensors to tensors, without any probability.

A network is made by its user, who knows its shapes: `network(in_shape, out_shape)` maps (*, *in_shape) to
(*, *out_shape) for any leading shape *.
"""

from collections.abc import Callable

from torch import nn

Shape = tuple[int, ...]
NetworkFactory = Callable[[Shape, Shape], nn.Module]
