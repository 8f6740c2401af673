"""A data set that is one batch, for inference that sees all of it at every step."""

from collections.abc import Iterator

import torch
from pydantic import PositiveInt

from latentlab.batch import Batch
from latentlab.classical.base import Source

from .module import DataModule


class Repeated:
    """An iterable of the same batch, `times` times."""

    def __init__(self, batch: Batch, times: int) -> None:
        self.batch = batch
        self.times = times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch for _ in range(self.times))


class Observations(DataModule):
    """All observations of a source at every step; nothing is kept for validation or test.

    The test loader yields the observations themselves, for the figures.

    Args:
        source: where the observations come from.
        steps_per_epoch: how many steps count as an epoch: a checkpoint is written after each.
        eval_batch_size: accepted for `evaluate.py`; the observations are one batch.
    """

    protocol: Source
    labelled = False
    val_size = 0

    def __init__(
        self, source: Source, steps_per_epoch: PositiveInt = 100, eval_batch_size: PositiveInt = 1000
    ) -> None:
        super().__init__()
        self.name = source.name
        self.source = self.protocol = source
        self.steps_per_epoch = steps_per_epoch
        self.eval_batch_size = eval_batch_size

    @property
    def num_examples(self) -> dict[str, int]:
        """How many observations there are."""
        return {"train": len(self.source.x), "val": 0, "test": 0}

    @property
    def num_classes(self) -> int:
        return 0

    @property
    def total_batch_size(self) -> int:
        return len(self.source.x)

    def training_set(self) -> list[Batch]:
        return [self._all]

    def training_sample(self, n: int) -> Batch:
        return Batch(self.source.x[:n], self.source.y[:n])

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Leave the observations on the CPU, where the inference is: not every device has float64."""
        return batch

    def train_dataloader(self) -> Repeated:
        """The batch of all observations, once a step."""
        return Repeated(self._all, self.steps_per_epoch)

    def test_dataloader(self) -> Repeated:
        """The batch of all observations, once."""
        return Repeated(self._all, 1)

    def whole_test_set(self) -> Repeated:
        return self.test_dataloader()

    @property
    def _all(self) -> Batch:
        return Batch(self.source.x, self.source.y)
