"""What a loader yields and a model of labels observes."""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Images x, float32 (B, 1, 28, 28), and labels y, int64 (B,), -1 where there are none."""

    x: Tensor
    y: Tensor

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.x.device
