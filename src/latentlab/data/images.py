"""Data sets of images: the settings, splits and loaders that all of them share."""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from latentlab.batch import Batch
from latentlab.data.loader import FIRST, FIXED, EvaluationLoader, TrainingLoader, seeded
from latentlab.data.module import DataModule, Split
from latentlab.errors import UserError
from latentlab.protocols import Protocol, Real

# The seeds of the draws of each split.
NUMBERS: dict[Split, int] = {"val": 0, "test": 1, "train": 2}
LONGEST = 80
# The settings that do not choose the images of a set. The other ones are part of its full name.
LOADING = (
    *("protocol", "root", "path", "sha256", "dataset", "seed", "on_device"),
    *("batch_size", "batch_size_per_device", "eval_batch_size", "points"),
)


class Images(NamedTuple):
    """Stored images x, uint8 (N, C, H, W), and labels y, int64 (N,). A missing label is -1."""

    x: Tensor
    y: Tensor

    def of_classes(self, classes: Sequence[int]) -> "Images":
        """Return the images of some classes, labelled by their places in the list."""
        kept = torch.isin(self.y, torch.tensor(classes))
        y = self.y[kept]
        return Images(self.x[kept], (y[:, None] == torch.tensor(classes)).int().argmax(1))


class Splits(NamedTuple):
    """The training and the test images, and those for validation, or None to take the end of the training images."""

    train: Images
    test: Images
    val: Images | None = None


@dataclass(eq=False, repr=False)
class ImageData(DataModule):
    """Images under a protocol. A data set is a subclass with a `name` and `read`.

    A subclass that adds settings or changes defaults is a dataclass too. The settings that it adds become part of
    `full_name`, where they differ from their defaults.

    Attributes:
        protocol: the rule that makes x of the stored pixels.
        batch_size: the number of examples in a training batch, over all devices.
        eval_batch_size: the number of examples in a validation or test batch.
        val_size: the number of training images, from the end, that form the validation set.
        seed: fixes the order and the noise of training.
        draw_seed: fixes the draw of validation and test sets, which depends on nothing else.
        on_device: True to keep the images on the GPU that trains.
        batch_size_per_device: the number of examples on each device, instead of `batch_size`.
        classes: the labels of the images that are kept in all splits, labelled by their places in this list; None
            for all.
        train_size: the number of training images, from the start, that are kept; None for all.
        labels: the number of training images that keep their label, equally many of each class; None for all.
        label_repeats: the number of times that an image with a label is seen in an epoch, if `labels` is given.
        name: the name of the data set.
        binary: True if the stored pixels are 0 and 1.
        stored: the type of the stored pixels.
        labelled: True if every image has a class label.

    Raises:
        UserError: if the protocol contradicts the stored pixels.
    """

    protocol: Protocol
    _: KW_ONLY
    batch_size: PositiveInt = 128
    eval_batch_size: PositiveInt = 1000
    val_size: NonNegativeInt | None = 10_000
    seed: NonNegativeInt = 0
    draw_seed: NonNegativeInt = 0
    on_device: bool = True
    batch_size_per_device: PositiveInt | None = None
    classes: Sequence[NonNegativeInt] | None = None
    train_size: PositiveInt | None = None
    labels: PositiveInt | None = None
    label_repeats: PositiveInt = 50

    binary: ClassVar[bool] = False
    stored: ClassVar[torch.dtype] = torch.uint8
    labelled = True

    def __post_init__(self) -> None:
        super().__init__()
        if isinstance(self.protocol, Real) and self.stored == torch.uint8:
            raise UserError(f"protocol=real is for vectors, such as data=moons, and {self.name} are images")
        if self.protocol.binary_source != self.binary:
            stored = "0 and 1 already" if self.binary else "grey levels"
            options = (
                "static"
                if self.binary
                else "threshold, dynamic, continuous, dequantised, discrete or four_bit"
            )
            raise UserError(
                f"protocol={self.protocol.name} does not fit {self.name}, stored as {stored}: use {options}"
            )

    @property
    def full_name(self) -> str:
        """The name of exactly these images under their protocol, such as `binarised_mnist_classes-0+1`."""
        name = "_".join(filter(None, (self.protocol.prefix, self.word, *_changed(self))))
        # It becomes a part of a directory's name.
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{digest}"

    @property
    def word(self) -> str:
        """The name of the set as a part of `full_name`."""
        return re.sub(r"\W+", "_", self.name.lower()).strip("_")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of an image, known before `read`: a model is built for it."""
        return (1, 28, 28)

    @abstractmethod
    def read(self) -> Splits:
        """Read the whole data set.

        Raises:
            UserError: if a file is missing or damaged.
        """

    def setup(self, stage: str = "") -> None:
        if self.trainer is not None and not self.validates:
            self.trainer.limit_val_batches = 0  # Lightning warns of an empty list of loaders otherwise
        _ = self._splits  # read the images now, before training

    @cached_property
    def _splits(self) -> tuple[Images, Images, Images]:
        train, test, val = self._checked(self.read())
        if val is None:
            train, val = self._cut(train)
        train, val, test = self._of_classes(train, val, test)
        return self._hidden(self._first(train)), val, test

    def _cut(self, train: Images) -> tuple[Images, Images]:
        x, y = train
        kept = len(y) - (self.val_size or 0)
        if kept <= 0:
            raise UserError(
                f"data.val_size={self.val_size} leaves nothing to train on: {self.name} has {len(y)} images"
            )
        return Images(x[:kept], y[:kept]), Images(x[kept:], y[kept:])

    def _of_classes(self, *splits: Images) -> Iterable[Images]:
        if self.classes is None:
            return splits
        there = torch.cat([images.y for images in splits]).unique().tolist()
        if not self.labelled:
            raise UserError(f"data.classes={_spelled(self.classes)}: {self.name} has no labels: leave it out")
        if len(set(self.classes)) < len(self.classes) or not self.classes:
            raise UserError(f"data.classes={_spelled(self.classes)}: give one or more classes, each once")
        if missing := set(self.classes) - set(there):
            raise UserError(
                f"data.classes={_spelled(self.classes)}: {self.name} has no class {min(missing)}: "
                f"its classes are {', '.join(map(str, there))}"
            )
        chosen = [images.of_classes(self.classes) for images in splits]
        if any(len(images.y) > len(kept.y) == 0 for images, kept in zip(splits, chosen, strict=True)):
            raise UserError(
                f"data.classes={_spelled(self.classes)}: a split of {self.name} has no such image: "
                "give more classes, or another data.val_size"
            )
        return chosen

    def _first(self, train: Images) -> Images:
        if self.train_size is not None and self.train_size > len(train.y):
            raise UserError(
                f"data.train_size={self.train_size}: there are {len(train.y)} training images besides those for "
                f"validation: give {len(train.y)} or less"
            )
        return Images(*(part[: self.train_size] for part in train))

    def _hidden(self, train: Images) -> Images:
        if self.labels is None:
            return train
        if not self.labelled:
            raise UserError(f"data.labels={self.labels}: {self.name} has no labels: leave it out")
        kept = torch.cat(balanced(train.y, self.labels, seeded(FIRST, self.draw_seed)))
        y = torch.full_like(train.y, -1)
        y[kept] = train.y[kept]
        again = kept.repeat(self.label_repeats - 1)
        return Images(torch.cat([train.x, train.x[again]]), torch.cat([y, y[again]]))

    def _checked(self, splits: Splits) -> Splits:
        there = {name: images for name, images in splits._asdict().items() if images is not None}
        for name, (x, y) in there.items():
            wrong = {
                "no images": len(x) == 0 and name != "val",
                f"{len(y)} labels for {len(x)} images": len(x) != len(y),
                f"pixels of type {x.dtype}, not {self.stored}": x.dtype != self.stored,
                f"labels of type {y.dtype}, not torch.int64": y.dtype != torch.int64,
                "other pixels than 0 and 1": self.binary and bool((x > 1).any()),
                "images without a label": self.labelled and bool((y < 0).any()),
            }
            if found := [reason for reason, applies in wrong.items() if applies]:
                raise UserError(
                    f"the {name} split of {self.name} has {found[0]}: choose another data set, or mend it"
                )
        return splits

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
        return {split: len(self.distinct(split).y) for split in ("train", "val", "test")}

    @property
    def examples_per_epoch(self) -> int:
        return len(self.train.y)

    def distinct(self, split: Split) -> Images:
        """Return the images of a split, each once. In training, those with a label repeat (`label_repeats`)."""
        images: Images = getattr(self, split)
        again = (self.labels or 0) * (self.label_repeats - 1) if split == "train" else 0
        return Images(*(part[: len(part) - again] for part in images))

    @property
    def num_classes(self) -> int:
        return len(self.classes) if self.classes else int(max(self.train.y.max(), self.test.y.max())) + 1

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
        return self._evaluation("val", self._rank_world) if self.validates else []

    def test_dataloader(self) -> EvaluationLoader:
        return self._evaluation(self.tested, self._rank_world)

    def whole_test_set(self) -> EvaluationLoader:
        return self._evaluation("test", (0, 1))

    def whole_set(self, split: Split) -> EvaluationLoader:
        """Return a whole split in batches, in the order of the data set, with a fixed draw of its noise.

        Every image is there once, see `distinct`.

        Raises:
            UserError: for another name, or an empty split.
        """
        if not self.num_examples.get(split):
            there = ", ".join(name for name, number in self.num_examples.items() if number)
            raise UserError(f"{self.name} has no split {split!r}: choose one of {there}")
        return self._evaluation(split, (0, 1))

    def _evaluation(self, split: Split, rank_world: tuple[int, int]) -> EvaluationLoader:
        images = self.distinct(split)
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


def balanced(y: Tensor, number: int, draws: torch.Generator) -> list[Tensor]:
    """Draw the places of `number` of the labels y (N,), equally many of each class.

    Raises:
        UserError: if that is impossible.
    """
    classes = y.unique().tolist()
    if number % len(classes):
        raise UserError(
            f"data.labels={number}: {len(classes)} classes have equally many labels: give a multiple of {len(classes)}"
        )
    each = number // len(classes)
    places = [(y == label).nonzero()[:, 0] for label in classes]
    if each > (fewest := min(map(len, places))):
        raise UserError(
            f"data.labels={number}: a class has {fewest} training images: give {fewest * len(classes)} or less"
        )
    return [own[torch.randperm(len(own), generator=draws)[:each]] for own in places]


def _changed(data: ImageData) -> Iterator[str]:
    """Yield the settings that choose the images and differ from their defaults, as `key-value`."""
    for setting in fields(data):
        value = getattr(data, setting.name)
        if setting.name not in LOADING and value != setting.default and value not in ({}, []):
            yield from (_word(key, each) for key, each in _entries(setting.name, value))


def _entries(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, Mapping) else [(key, value)]


def _word(key: str, value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    return re.sub(r"[^\w.+-]+", "-", f"{key}-{'+'.join(map(str, values))}", flags=re.ASCII)


def _spelled(values: Sequence[Any]) -> str:
    return f"[{','.join(map(str, values))}]"
