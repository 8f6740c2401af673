"""Observations of a classical model, which sees all of them at every step."""

from collections.abc import Iterator

import torch
from pydantic import PositiveInt

from latentlab.batch import Batch
from latentlab.classical.base import Source
from latentlab.data.module import DataModule


class Repeated:
    """An iterable of the same batch, `times` times."""

    def __init__(self, batch: Batch, times: int) -> None:
        self.batch = batch
        self.times = times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch for _ in range(self.times))

    def state_dict(self) -> dict[str, int]:
        """Return nothing, since all batches are the same. Lightning asks for it before it resumes within an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing."""


class Observations(DataModule):
    """All observations of a source in one batch. None are held out: the test set is the training set.

    Args:
        source: the observations.
        steps_per_epoch: the number of training steps in an epoch. A checkpoint holds the state after an epoch.
        eval_batch_size: ignored, as all observations are one batch.
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
        return {"train": len(self.source.x), "val": 0, "test": 0}

    @property
    def num_classes(self) -> int:
        return 0

    @property
    def total_batch_size(self) -> int:
        return len(self.source.x)

    def training_set(self) -> Source:
        return self.source

    def training_sample(self, n: int) -> Batch:
        return Batch(self.source.x[:n], self.source.y[:n])

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Leave the observations on the CPU with the inference, because some devices have no float64."""
        return batch

    def train_dataloader(self) -> Repeated:
        return self._loader(self.steps_per_epoch)

    def test_dataloader(self) -> Repeated:
        return self._loader(1)

    def whole_test_set(self) -> Source:
        return self.source

    def _loader(self, steps: int) -> Repeated:
        return Repeated(Batch(self.source.x, self.source.y), steps)
