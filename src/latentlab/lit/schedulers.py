"""Learning-rate schedulers that torch lacks."""

from pydantic import PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class IWAEStages(LambdaLR):
    r"""Stages i = 0, ..., n - 1 of $3^i$ epochs each at $10^{-i/(n-1)}$ times the optimiser's learning rate.

    Burda et al. 2016, section 5: n = 8 stages, 3,280 epochs. The rate of the last stage is kept afterwards.

    Args:
        optimizer: the optimiser.
        stages: the number n of stages.
    """

    def __init__(self, optimizer: Optimizer, stages: PositiveInt = 8) -> None:
        ends = [(3 ** (stage + 1) - 1) // 2 for stage in range(stages)]

        def factor(epoch: int) -> float:
            stage = min(sum(epoch >= end for end in ends), stages - 1)
            return 10 ** (-stage / max(stages - 1, 1))

        super().__init__(optimizer, factor)
