"""The data of an experiment, as Lightning wants them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from latentlab.batch import Batch
from latentlab.classical.sources import Source
from latentlab.errors import UserError
from latentlab.protocols import Protocol

from .loader import FIRST, FIXED, EvaluationLoader, TrainingLoader, seeded

VAL, TEST = range(2)


class DataModule(pl.LightningDataModule, ABC):
    """The data set of a run: its protocol, its splits and its loaders.

    Attributes:
        name: the name of the data set.
        protocol: the rule that makes x of the stored pixels; the source of a classical inference's own data.
        labelled: True if every example has a class label.
        val_size: the number of validation examples.
    """

    name: str
    protocol: Protocol | Source
    labelled: bool
    val_size: int

    @property
    @abstractmethod
    def num_examples(self) -> Mapping[str, int]:
        """The sizes of "train", "val" and "test", over all ranks."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """The largest label plus one; 0 if there are no labels."""

    @property
    @abstractmethod
    def total_batch_size(self) -> int:
        """The number of examples in a training batch, over all devices."""

    @abstractmethod
    def training_set(self) -> Iterable[Batch]:
        """All training examples once, in batches."""

    @abstractmethod
    def training_sample(self, n: int) -> Batch:
        """At most n random training examples on the CPU, the same on every rank."""

    @abstractmethod
    def whole_test_set(self) -> Iterable[Batch]:
        """The test set in batches, whole on every rank."""


class Images(NamedTuple):
    """Images x, uint8 (N, 1, 28, 28), and labels y, int64 (N,), -1 where there are none."""

    x: Tensor
    y: Tensor


class Splits(NamedTuple):
    """What a source offers: images to train on, whose end is kept for validation, and test images."""

    train: Images
    test: Images


class ImageData(DataModule):
    """Images of 28 x 28 pixels under a protocol: a source (`read`), split, transformed and batched here.

    The last `val_size` training images are for validation; 0 trains on all of them and skips validation.
    Training order and noise come from `seed`; the draws of validation and test are made once over the whole
    split, from `draw_seed`, so that a test figure does not depend on seed, batch size or number of ranks.
    A training batch is that of all devices together, `batch_size` examples of which each takes an equal part, to
    within one; or `batch_size_per_device` on each, if that is given. With `on_device` the images live on the GPU
    that trains. Raises UserError where the protocol contradicts the source.
    """

    protocol: Protocol
    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    binary: ClassVar[bool] = False
    labelled = True

    def __init__(
        self,
        protocol: Protocol,
        batch_size: PositiveInt = 128,
        eval_batch_size: PositiveInt = 1000,
        val_size: NonNegativeInt = 10_000,
        seed: NonNegativeInt = 0,
        draw_seed: NonNegativeInt = 0,
        on_device: bool = True,
        batch_size_per_device: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        if protocol.binary_source != self.binary:
            stored = "0 and 1 already" if self.binary else "grey levels"
            options = "static" if self.binary else "threshold, dynamic, continuous, dequantised or discrete"
            raise UserError(
                f"protocol={protocol.name} does not fit {self.name}, stored as {stored}: use {options}"
            )
        self.protocol = protocol
        self.batch_size = batch_size
        self.batch_size_per_device = batch_size_per_device
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.seed = seed
        self.draw_seed = draw_seed
        self.on_device = on_device
        self._train: Images | None = None
        self._val: Images | None = None
        self._test: Images | None = None

    @abstractmethod
    def read(self) -> Splits:
        """Read the whole set; UserError where a file is missing or damaged."""

    def setup(self, stage: str = "") -> None:
        """Read and split the set, the first time; UserError where `val_size` leaves nothing to train on."""
        if self.trainer is not None and self.val_size == 0:
            self.trainer.limit_val_batches = 0  # an empty list of loaders would still be warned of
        if self._train is not None:
            return
        (x, y), self._test = self.read()
        kept = len(y) - self.val_size
        if kept <= 0:
            raise UserError(
                f"data.val_size={self.val_size} leaves nothing to train on: {self.name} has {len(y)} images"
            )
        self._train, self._val = Images(x[:kept], y[:kept]), Images(x[kept:], y[kept:])

    @property
    def train(self) -> Images:
        """The training images; reads the set where `setup` has not been called."""
        self.setup()
        assert self._train is not None
        return self._train

    @property
    def val(self) -> Images:
        """The validation images, none with `val_size=0`; reads the set where `setup` has not been called."""
        self.setup()
        assert self._val is not None
        return self._val

    @property
    def test(self) -> Images:
        """The test images; reads the set where `setup` has not been called."""
        self.setup()
        assert self._test is not None
        return self._test

    @property
    def num_examples(self) -> dict[str, int]:
        """How many images "train", "val" and "test" hold, over all ranks."""
        return {"train": len(self.train.y), "val": len(self.val.y), "test": len(self.test.y)}

    @property
    def total_batch_size(self) -> int:
        """The examples of a training batch, over all devices; UserError where there is not one for each."""
        _, world = self._rank_world
        total = self.batch_size_per_device * world if self.batch_size_per_device else self.batch_size
        if total < world:
            raise UserError(
                f"data.batch_size={total} is the total over {world} devices, and less than one example for each: "
                f"give {world} or more, or data.batch_size_per_device"
            )
        return total

    @property
    def num_classes(self) -> int:
        return int(max(self.train.y.max(), self.test.y.max())) + 1

    def training_set(self) -> TrainingLoader:
        return self.train_dataloader()

    def training_sample(self, n: int) -> Batch:
        x, y = self.train
        draws = seeded(FIRST, self.seed)  # private, so that the draws of training do not change
        chosen = torch.randperm(len(x), generator=draws)[:n]
        return Batch(self.protocol(x[chosen], draws), y[chosen])

    def train_dataloader(self) -> TrainingLoader:
        """Shuffled batches of this rank; with the trainer's `overfit_batches`, the same ones every epoch."""
        x, y = (tensor.to(self._device) for tensor in self.train)
        # Trainer sets the attribute without declaring it.
        frozen = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return TrainingLoader(
            x, y, self.protocol, self.total_batch_size, self.seed, *self._rank_world, frozen=frozen
        )

    def val_dataloader(self) -> EvaluationLoader | list[EvaluationLoader]:
        """This rank's shard of the validation set; none, hence no validation, with `val_size=0`."""
        return self._evaluation(VAL, self.val) if self.val_size else []

    def test_dataloader(self) -> EvaluationLoader:
        """This rank's shard of the test set."""
        return self._evaluation(TEST, self.test)

    def whole_test_set(self) -> EvaluationLoader:
        """The test set on this rank alone, for figures."""
        return self._evaluation(TEST, self.test, (0, 1))

    def _evaluation(
        self, split: int, images: Images, place: tuple[int, int] | None = None
    ) -> EvaluationLoader:
        # Drawn on the CPU, so that the draw is the same on every device.
        x = self.protocol(images.x, seeded(FIXED, self.draw_seed, split))
        return EvaluationLoader(
            x.to(self._device), images.y.to(self._device), self.eval_batch_size, *(place or self._rank_world)
        )

    @property
    def _rank_world(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    @property
    def _device(self) -> torch.device:
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return device if self.on_device and device.type == "cuda" else torch.device("cpu")
