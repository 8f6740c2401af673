"""MNIST and its relatives, through torchvision."""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt
from torchvision import datasets
from torchvision.datasets import MNIST

from latentlab.errors import UserError
from latentlab.protocols import Protocol

from .files import WAY_OUT, check_idx, check_md5, downloading, expand
from .module import ImageData, Images, Splits

log = logging.getLogger(__name__)

# torchvision checks the archives that it downloads, not the files that it finds; these are MNIST's.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def torchvision_class(dataset: str) -> type[MNIST]:
    """torchvision's class of this name, MNIST or a subclass; UserError with a suggestion if there is none."""
    found: dict[str, type[MNIST]] = {
        name: value
        for name, value in vars(datasets).items()
        if isinstance(value, type) and issubclass(value, MNIST)
    }
    if dataset in found:
        return found[dataset]
    folded = {name.lower(): name for name in found}
    close = difflib.get_close_matches(dataset.lower(), folded, n=1)
    hint = f"did you mean {folded[close[0]]}?" if close else f"choose from {', '.join(sorted(found))}"
    raise UserError(f"data.dataset={dataset} is no 28x28 set of torchvision: {hint}")


class TorchvisionData(ImageData):
    """MNIST, FashionMNIST, KMNIST, QMNIST or EMNIST, in the order of their files.

    Files are under `root`/`dataset`/raw and are downloaded there when missing; those there already are
    checked before they are read (MNIST's by checksum, others by their headers). `options` are those of
    torchvision's class, such as {"split": "balanced"} for EMNIST, whose images are transposed, as torchvision
    gives them. Raises UserError for an unknown set or option, and for files missing or damaged.
    """

    def __init__(
        self,
        protocol: Protocol,
        root: str | Path = "data",
        dataset: str = "MNIST",
        options: Mapping[str, Any] | None = None,
        batch_size: PositiveInt = 128,
        eval_batch_size: PositiveInt = 1000,
        val_size: NonNegativeInt = 10_000,
        seed: NonNegativeInt = 0,
        draw_seed: NonNegativeInt = 0,
        on_device: bool = True,
        batch_size_per_device: PositiveInt | None = None,
    ) -> None:
        self.name = dataset
        super().__init__(
            protocol,
            batch_size,
            eval_batch_size,
            val_size,
            seed,
            draw_seed,
            on_device,
            batch_size_per_device,
        )
        self.source = torchvision_class(dataset)
        self.options = dict(options or {})
        self.root = expand(root)
        self.folder = self.root / dataset / "raw"

    def prepare_data(self) -> None:
        """Download what is missing; UserError where that fails or where a file is damaged."""
        self._check(md5={})
        for train in (True, False):
            try:
                self._open(train, download=False)
            except RuntimeError:
                log.info("downloading %s into %s", self.name, self.folder)
                with downloading(self.name, self.folder):
                    self._open(train, download=True)

    def read(self) -> Splits:
        """The set's own training and test files; UserError where one is missing or damaged."""
        self._check(md5=MNIST_MD5 if self.source is MNIST else {})
        try:
            return Splits(self._images(train=True), self._images(train=False))
        except RuntimeError as error:
            raise UserError(f"{self.name} is not in {self.folder}: {WAY_OUT}") from error

    def _images(self, train: bool) -> Images:
        source = self._open(train, download=False)
        # QMNIST's labels are rows (class, writer, ...); the class is the first entry.
        return Images(source.data.unsqueeze(1), source.targets.reshape(len(source), -1)[:, 0].contiguous())

    def _open(self, train: bool, download: bool) -> MNIST:
        try:
            return self.source(root=str(self.root), train=train, download=download, **self.options)
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"data.options={self.options} does not fit {self.name}: {reason}") from error

    def _check(self, md5: dict[str, str]) -> None:
        for path in sorted(self.folder.glob("*-idx?-*")):
            if path.suffix == "":  # not the archives beside them, which torchvision checks
                check_idx(path)
        for name, digest in md5.items():
            if (self.folder / name).exists():
                check_md5(self.folder / name, digest)
