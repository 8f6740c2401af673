"""Data sets of images: the settings, splits and loaders that all of them share."""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from latentlab.batch import Batch
from latentlab.data.loader import FIRST, FIXED, EvaluationLoader, TrainingLoader, seeded
from latentlab.data.module import DataModule, Split
from latentlab.errors import UserError
from latentlab.protocols import Protocol

# The seeds of the draws of each split.
NUMBERS: dict[Split, int] = {"val": 0, "test": 1, "train": 2}


class Images(NamedTuple):
    """Stored images x, uint8 (N, 1, 28, 28), and labels y, int64 (N,). A missing label is -1."""

    x: Tensor
    y: Tensor


class Splits(NamedTuple):
    """The training images, whose end becomes the validation set, and the test images."""

    train: Images
    test: Images


@dataclass(eq=False, repr=False)
class ImageData(DataModule):
    """Images of 28 x 28 pixels under a protocol. A data set is a subclass with a `name` and `read`.

    A subclass that adds settings or changes defaults is a dataclass too.

    Attributes:
        protocol: the rule that makes x of the stored pixels.
        batch_size: the number of examples in a training batch, over all devices.
        eval_batch_size: the number of examples in a validation or test batch.
        val_size: the number of training images, from the end, that form the validation set.
        seed: fixes the order and the noise of training.
        draw_seed: fixes the draw of validation and test sets, which depends on nothing else.
        on_device: True to keep the images on the GPU that trains.
        batch_size_per_device: the number of examples on each device, instead of `batch_size`.
        name: the name of the data set.
        binary: True if the stored pixels are 0 and 1.
        labelled: True if every image has a class label.

    Raises:
        UserError: if the protocol contradicts the stored pixels.
    """

    protocol: Protocol
    _: KW_ONLY
    batch_size: PositiveInt = 128
    eval_batch_size: PositiveInt = 1000
    val_size: NonNegativeInt = 10_000
    seed: NonNegativeInt = 0
    draw_seed: NonNegativeInt = 0
    on_device: bool = True
    batch_size_per_device: PositiveInt | None = None

    binary: ClassVar[bool] = False
    labelled = True

    def __post_init__(self) -> None:
        super().__init__()
        if self.protocol.binary_source != self.binary:
            stored = "0 and 1 already" if self.binary else "grey levels"
            options = "static" if self.binary else "threshold, dynamic, continuous, dequantised or discrete"
            raise UserError(
                f"protocol={self.protocol.name} does not fit {self.name}, stored as {stored}: use {options}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image, known before `read`: a model is built for it."""
        return (1, 28, 28)

    @abstractmethod
    def read(self) -> Splits:
        """Read the whole data set.

        Raises:
            UserError: if a file is missing or damaged.
        """

    def setup(self, stage: str = "") -> None:
        if self.trainer is not None and self.val_size == 0:
            self.trainer.limit_val_batches = 0  # Lightning warns of an empty list of loaders otherwise
        _ = self._splits  # read the images now, before training

    @cached_property
    def _splits(self) -> tuple[Images, Images, Images]:
        (x, y), test = self._checked(*self.read())
        kept = len(y) - self.val_size
        if kept <= 0:
            raise UserError(
                f"data.val_size={self.val_size} leaves nothing to train on: {self.name} has {len(y)} images"
            )
        return Images(x[:kept], y[:kept]), Images(x[kept:], y[kept:]), test

    def _checked(self, *parts: Images) -> Splits:
        for name, (x, y) in zip(Splits._fields, parts, strict=True):
            wrong = {
                "no images": len(x) == 0,
                f"{len(y)} labels for {len(x)} images": len(x) != len(y),
                f"pixels of type {x.dtype}, not torch.uint8": x.dtype != torch.uint8,
                f"labels of type {y.dtype}, not torch.int64": y.dtype != torch.int64,
                "other pixels than 0 and 1": self.binary and bool((x > 1).any()),
                "images without a label": self.labelled and bool((y < 0).any()),
            }
            if found := [reason for reason, applies in wrong.items() if applies]:
                raise UserError(
                    f"the {name} split of {self.name} has {found[0]}: choose another data set, or mend it"
                )
        return Splits(*parts)

    @property
    def train(self) -> Images:
        return self._splits[0]

    @property
    def val(self) -> Images:
        return self._splits[1]

    @property
    def test(self) -> Images:
        return self._splits[2]

    @property
    def num_examples(self) -> dict[str, int]:
        return {"train": len(self.train.y), "val": len(self.val.y), "test": len(self.test.y)}

    @property
    def num_classes(self) -> int:
        return int(max(self.train.y.max(), self.test.y.max())) + 1

    @property
    def total_batch_size(self) -> int:
        _, world = self._rank_world
        total = self.batch_size_per_device * world if self.batch_size_per_device else self.batch_size
        if total < world:
            raise UserError(
                f"data.batch_size={total} is the total over {world} devices, less than one example for each: "
                f"give {world} or more, or data.batch_size_per_device"
            )
        return total

    def training_set(self) -> TrainingLoader:
        return self.train_dataloader()

    def training_sample(self, n: int) -> Batch:
        x, y = self.train
        draws = seeded(FIRST, self.seed)  # private, so that the draws of training do not change
        chosen = torch.randperm(len(x), generator=draws)[:n]
        return Batch(self.protocol(x[chosen], draws), y[chosen])

    def train_dataloader(self) -> TrainingLoader:
        """Return shuffled batches of this rank, the same in every epoch with `trainer.overfit_batches`."""
        x, y = (tensor.to(self._device) for tensor in self.train)
        # Trainer sets the attribute, but does not declare it.
        frozen = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return TrainingLoader(
            x, y, self.protocol, self.total_batch_size, self.seed, *self._rank_world, frozen=frozen
        )

    def val_dataloader(self) -> EvaluationLoader | list[EvaluationLoader]:
        return self._evaluation("val", self._rank_world) if self.val_size else []

    def test_dataloader(self) -> EvaluationLoader:
        return self._evaluation("test", self._rank_world)

    def whole_test_set(self) -> EvaluationLoader:
        return self._evaluation("test", (0, 1))

    def whole_set(self, split: Split) -> EvaluationLoader:
        """Return a whole split in batches, in the order of the data set, with a fixed draw of its noise.

        Raises:
            UserError: for another name, or an empty split.
        """
        if not self.num_examples.get(split):
            there = ", ".join(name for name, number in self.num_examples.items() if number)
            raise UserError(f"{self.name} has no split {split!r}: choose one of {there}")
        return self._evaluation(split, (0, 1))

    def _evaluation(self, split: Split, rank_world: tuple[int, int]) -> EvaluationLoader:
        images: Images = getattr(self, split)
        # The noise is drawn on the CPU, so that it is the same on every device.
        x = self.protocol(images.x, seeded(FIXED, self.draw_seed, NUMBERS[split]))
        return EvaluationLoader(
            x.to(self._device), images.y.to(self._device), self.eval_batch_size, *rank_world
        )

    @property
    def _rank_world(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    @property
    def _device(self) -> torch.device:
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return device if self.on_device and device.type == "cuda" else torch.device("cpu")
