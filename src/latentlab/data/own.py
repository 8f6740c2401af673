"""Images of files: the user's own, and the base of all sets without a published checksum."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from latentlab.data.arrays import LARGEST_SIDE, Conversion, Part
from latentlab.data.formats import read_images
from latentlab.data.images import ImageData, Images, Splits
from latentlab.errors import UserError

# The share of the images that is held out for the test set, and again for validation, in percent.
HELD_OUT = 15
Side = Annotated[PositiveInt, Field(le=LARGEST_SIDE)]


@dataclass(eq=False, repr=False)
class FileData(ImageData):
    """Images of files that no published checksum verifies. A run records their own checksum in its config.

    Attributes:
        sha256: the checksum that the images must have; None for any.

    Raises:
        UserError: if the images have another checksum.
    """

    _: KW_ONLY
    sha256: str | None = None

    @abstractmethod
    def load(self) -> Splits:
        """Read the whole data set, once.

        Raises:
            UserError: if a file is missing or damaged.
        """

    @cached_property
    def loaded(self) -> Splits:
        return self.load()

    def read(self) -> Splits:
        if self.sha256 not in (None, self.digest):
            raise UserError(
                f"data.sha256={self.sha256}: the images of {self.name} have the checksum {self.digest}: "
                "give the place of the same images"
            )
        return self.loaded

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all pixels and labels as they are read, before classes are chosen."""
        found = hashlib.sha256()
        for images in self.loaded:
            for part in images or ():
                found.update(repr(part.shape).encode())
                found.update(part.contiguous().numpy())  # type: ignore[arg-type]  # an array has a buffer
        return found.hexdigest()


@dataclass(eq=False, repr=False)
class ImageFiles(FileData):
    """The images of a folder or a file, see docs/data.md for the formats.

    Without splits of their own, the images are shuffled once. The last are the test set, those before them the
    validation set.

    Attributes:
        path: the folder or the file.
        test_size: the number of test images; None for the stored ones, or else 15 % of all images.
        val_size: the number of validation images; None for the stored ones, or else 15 % of all images.
        split_seed: fixes the shuffle of the images.
        resize: the height and width of all images; None if they have one size already.
        channels: 1 to read grey images, 3 to read colour; None for the stored channels.
        invert: True to exchange black and white.

    Raises:
        UserError: if there are no images, or they cannot be read.
    """

    path: str | Path
    _: KW_ONLY
    test_size: PositiveInt | None = None
    val_size: NonNegativeInt | None = None
    split_seed: Annotated[NonNegativeInt, Field(lt=2**32)] = 0
    resize: Annotated[Sequence[Side], Field(min_length=2, max_length=2)] | None = None
    channels: Literal[1, 3] | None = None
    invert: bool = False

    def __post_init__(self) -> None:
        self.place = Path(self.path).expanduser()
        self.name = self.place.absolute().stem
        super().__post_init__()

    @property
    def word(self) -> str:
        # Files of the same name may hold other images.
        return "_".join(("images", super().word, *([self.sha256[:8]] if self.sha256 else [])))

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.loaded.train.x.shape[1:]
        return channels, height, width

    @cached_property
    def labelled(self) -> bool:  # type: ignore[override]  # known once the files are read
        return bool((self.loaded.train.y >= 0).all())

    def load(self) -> Splits:
        parts = read_images(self.place, Conversion(self.resize, self.channels, self.invert))
        shapes = {split: tuple(part.x.shape[1:]) for split, part in parts.items()}
        if len(set(shapes.values())) > 1:
            raise UserError(
                f"{self.place}: its splits have images of {shapes}: give data.resize and data.channels"
            )
        if "train" not in parts:
            raise UserError(
                f"{self.place} has no training images, only {' and '.join(parts)}: name a split train"
            )
        if "test" in parts and self.test_size is not None:
            raise UserError(f"data.test_size={self.test_size}: {self.place} has a test set: leave it out")
        if self.val_size is not None and "val" in parts:  # another split than the stored one
            parts["train"] = Part(*map(torch.cat, zip(parts["train"], parts.pop("val"), strict=True)))
        return self._split({name: Images(*part) for name, part in parts.items()})

    def _split(self, parts: dict[str, Images]) -> Splits:
        number = len(parts["train"].y)
        share = max(number * HELD_OUT // 100, 1)
        test = 0 if "test" in parts else self.test_size or share
        val = 0 if "val" in parts else share if self.val_size is None else self.val_size
        if test + val >= number:
            raise UserError(
                f"data.test_size={test} and data.val_size={val} leave nothing to train on: {self.place} needs "
                f"{test + val + 1} images for training or more, and has {number}"
            )
        # The stream of RandomState is the same in all versions of NumPy.
        order = torch.from_numpy(np.random.RandomState(self.split_seed).permutation(number))
        cuts = order.split([number - test - val, val, test])
        chosen = [Images(parts["train"].x[cut], parts["train"].y[cut]) for cut in cuts]
        return Splits(chosen[0], parts.get("test", chosen[2]), parts.get("val", chosen[1]))
