"""Where reduced precision ends: distributions take float32 parameters at least."""

import torch
from torch import Tensor


def full_precision(parameters: Tensor) -> Tensor:
    """float32 from a network that ran in half precision; float32 and float64 stay as they are."""
    return parameters.to(torch.promote_types(parameters.dtype, torch.float32))
