"""MNIST and its relatives, through torchvision."""

import difflib
import logging
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt

from latentlab.data.files import REMEDY, check_file, check_idx, check_md5, downloading, read_idx
from latentlab.data.images import ImageData, Images, Splits
from latentlab.errors import UserError

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

log = logging.getLogger(__name__)

# torchvision checks the archives that it downloads, but not the unpacked files that it finds.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# The data sets whose files have the same names. They are read without torchvision, which takes a second to import.
SAME_FILES = ("MNIST", "FashionMNIST", "KMNIST")


@dataclass(eq=False, repr=False)
class TorchvisionData(ImageData):
    """MNIST, FashionMNIST, KMNIST, QMNIST or EMNIST, in the order of their files.

    The files are in `root`/`dataset`/raw, and are downloaded there if they are missing. Files that are there are
    checked before they are read, those of MNIST by md5.

    Attributes:
        root: the folder of all data sets.
        dataset: the name of torchvision's class.
        options: arguments of that class, such as {"split": "balanced"} for EMNIST.

    Raises:
        UserError: for an unknown data set or option, and for missing or damaged files.
    """

    root: str | Path = "data"
    dataset: str = "MNIST"
    options: Mapping[str, Any] | None = None
    _: KW_ONLY
    val_size: NonNegativeInt = 10_000

    def __post_init__(self) -> None:
        self.name = self.dataset
        super().__post_init__()
        if self.dataset not in SAME_FILES:
            torchvision_class(self.dataset)  # refused before anything is read
        self.folder = Path(self.root).expanduser() / self.dataset / "raw"

    def prepare_data(self) -> None:
        self._check(md5={})
        if self._is_there:
            return
        for train in (True, False):
            try:
                self._open(train, download=False)
            except RuntimeError:
                log.info("downloading %s into %s", self.name, self.folder)
                with downloading(self.name, self.folder):
                    self._open(train, download=True)

    def read(self) -> Splits:
        self._check(md5=MNIST_MD5 if self.dataset == "MNIST" else {})
        try:
            return Splits(self._images(train=True), self._images(train=False))
        except RuntimeError as error:
            raise UserError(f"{self.name} is not in {self.folder}: {REMEDY}") from error

    @property
    def _is_there(self) -> bool:
        """True if the files can be read without torchvision."""
        same = self.dataset in SAME_FILES and not self.options
        return same and all((self.folder / name).is_file() for name in MNIST_MD5)

    def _images(self, train: bool) -> Images:
        if self._is_there:
            split = "train" if train else "t10k"
            images, labels = (self.folder / name for name in MNIST_MD5 if name.startswith(split))
            return Images(read_idx(images, 3).unsqueeze(1), read_idx(labels, 1).long())
        source = self._open(train, download=False)
        # The labels of QMNIST are rows (class, writer, ...).
        labels = source.targets.flatten(1)[:, 0] if source.targets.ndim > 1 else source.targets
        return Images(source.data.unsqueeze(1), labels.contiguous())

    def _open(self, train: bool, download: bool) -> "MNIST":
        options = dict(self.options or {})
        try:
            return torchvision_class(self.dataset)(
                str(self.folder.parents[1]), train=train, download=download, **options
            )
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"data.options={options} does not fit {self.name}: {reason}") from error

    def _check(self, md5: dict[str, str]) -> None:
        unchecked = self.folder.parent / "processed"
        if any(unchecked.glob("*.pt")):
            raise UserError(
                f"{unchecked} holds files of an old torchvision, which nothing checks: delete that folder"
            )
        for path in sorted(self.folder.glob("*-idx?-*")):
            check_file(path)
            if path.suffix == "" and path.name not in md5:  # torchvision checks the archives
                check_idx(path)
        for name, digest in md5.items():
            if (self.folder / name).exists():
                check_md5(self.folder / name, digest)


def torchvision_class(dataset: str) -> "type[MNIST]":
    """Return torchvision's class of this name, MNIST or a subclass.

    Raises:
        UserError: with a suggestion if it does not exist.
    """
    from torchvision import datasets  # late, as it is slow to import

    found: dict[str, type[MNIST]] = {
        name: value
        for name, value in vars(datasets).items()
        if isinstance(value, type) and issubclass(value, datasets.MNIST)
    }
    if dataset in found:
        return found[dataset]
    folded = {name.lower(): name for name in found}
    close = difflib.get_close_matches(dataset.lower(), folded, n=1)
    hint = f"did you mean {folded[close[0]]}?" if close else f"choose from {', '.join(sorted(found))}"
    raise UserError(f"data.dataset={dataset} is not a 28x28 data set of torchvision: {hint}")
