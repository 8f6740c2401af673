"""The interface of all data modules."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Literal

import pytorch_lightning as pl

from latentlab.batch import Batch
from latentlab.classical.base import Source
from latentlab.errors import UserError
from latentlab.protocols import Protocol

Split = Literal["train", "val", "test"]


class DataModule(pl.LightningDataModule, ABC):
    """The data set of a run: its protocol, its splits and its loaders.

    Attributes:
        name: the name of the data set.
        protocol: the rule that makes x of the stored pixels, or the source of a classical inference's own data.
        labelled: True if every example has a class label.
        val_size: the number of validation examples.
        full_name: the name of exactly these examples, for results.
        tested: the split that a test scores.
    """

    name: str
    protocol: Protocol | Source
    labelled: bool
    val_size: int | None
    tested: Split = "test"

    @property
    def full_name(self) -> str:
        return self.name

    @property
    def validates(self) -> bool:
        """True if there is a validation set."""
        return self.val_size != 0

    @property
    @abstractmethod
    def num_examples(self) -> Mapping[str, int]:
        """The sizes of "train", "val" and "test", over all ranks, with each example once."""

    @property
    def examples_per_epoch(self) -> int:
        """The number of examples in an epoch, over all ranks. Training may repeat some."""
        return self.num_examples["train"]

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """The largest label plus one, or 0 without labels."""

    @property
    @abstractmethod
    def total_batch_size(self) -> int:
        """The number of examples in a training batch, over all devices."""

    @abstractmethod
    def training_set(self) -> Iterable[Batch]:
        """Return all training examples once, in batches."""

    @abstractmethod
    def training_sample(self, n: int) -> Batch:
        """Return at most n random training examples on the CPU, the same on every rank."""

    @abstractmethod
    def whole_test_set(self) -> Iterable[Batch]:
        """Return the whole test set in batches, on every rank."""

    def whole_set(self, split: Split) -> Iterable[Batch]:
        """Return a whole split in batches, in the order of the data set.

        Raises:
            UserError: if there is no such split.
        """
        raise UserError(f"{self.name} has no {split} split in batches: training_set() has all observations")
