"""Networks: modules that map tensors to tensors, without any probability.

The user of a network makes it by `network(in_shape, out_shape)`. It maps (*, *in_shape) to (*, *out_shape) for any
leading shape *.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

Shape = tuple[int, ...]
# The number of layers of a network.
Depth = Annotated[int, Field(gt=0, le=1000)]
NetworkFactory = Callable[[Shape, Shape], nn.Module]


def full_precision(output: Tensor) -> Tensor:
    """Convert the half-precision output of a network to float32, and keep float32 and float64.

    Distributions need parameters in float32 at least.
    """
    return output.to(torch.promote_types(output.dtype, torch.float32))


def keep_full_precision(network: nn.Module) -> None:
    """Give every linear layer of a library's network an output in float32 at least (see `full_precision`)."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(_in_full_precision)


def _in_full_precision(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return full_precision(output)
