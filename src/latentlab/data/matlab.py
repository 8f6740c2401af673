"""Sets that the field shares as MATLAB files: Omniglot, the Caltech 101 silhouettes and the Frey faces."""

import hashlib
import logging
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt
from torch import Tensor

from latentlab.data.arrays import Array, scale_of
from latentlab.data.files import REMEDY, check_file, damaged, downloading
from latentlab.data.images import Images, Splits
from latentlab.data.own import FileData
from latentlab.errors import UserError
from latentlab.run.files import replaced

log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class MatlabData(FileData):
    """A set in one .mat file, in `root`/`folder`, which is downloaded there if it is missing.

    The shapes of its arrays and the range of its pixels are checked.

    Attributes:
        root: the folder of all data sets.
        folder: the folder of the set.
        url: the address of the file.
        arrays: the shape of each array in the file.

    Raises:
        UserError: for a missing or damaged file.
    """

    root: str | Path = "data"

    folder: ClassVar[str]
    url: ClassVar[str]
    arrays: ClassVar[Mapping[str, tuple[int, int]]]

    @property
    def file(self) -> Path:
        return Path(self.root).expanduser() / self.folder / self.url.rpartition("/")[2]

    def prepare_data(self) -> None:
        if not self.file.exists():
            log.info("downloading %s into %s", self.file.name, self.file.parent)
            with downloading(self.name, self.file.parent):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                # torchvision downloads nothing onto a draft that is there, without a checksum.
                with replaced(self.file) as draft, urlopen(self.url) as answer, draft.open("wb") as file:
                    shutil.copyfileobj(answer, file)

    def load(self) -> Splits:
        if not self.file.exists():
            raise UserError(f"{self.file} is missing: {REMEDY}")
        check_file(self.file)
        self.check()
        return self.splits(self._read())

    def check(self) -> None:
        """Check the file itself, if its checksum is known."""

    @abstractmethod
    def splits(self, arrays: Mapping[str, Array]) -> Splits:
        """Make the splits from the arrays of the file."""

    def _read(self) -> dict[str, Array]:
        from scipy.io import loadmat  # late, as the other sets need no SciPy

        try:
            content: Mapping[str, Any] = loadmat(self.file, variable_names=list(self.arrays))
            found = {name: np.asarray(content[name]) for name in self.arrays}
        except Exception as error:  # a damaged file may raise any error
            raise damaged(self.file, " ".join(str(error).split())) from error
        for name, shape in self.arrays.items():
            if found[name].shape != shape:
                raise damaged(self.file, f"{name} has the shape {found[name].shape}, not {shape}")
        return found


def column_major(columns: Array) -> Tensor:
    """Make images, uint8 (N, 1, 28, 28), of MATLAB's images in columns (784, N), each stored column by column."""
    pixels = np.rint(columns.T * scale_of([columns], "the file")).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(pixels.reshape(-1, 1, 28, 28).swapaxes(2, 3)))


@dataclass(eq=False, repr=False)
class Omniglot(MatlabData):
    """Omniglot (Lake et al. 2015) at 28 x 28 pixels in the split of Burda et al. (2016), 24,345 / 8,070.

    https://arxiv.org/abs/1509.00519, section 5. The grey levels in [0, 1] are rounded to 255ths. The training images
    are shuffled as in Burda's code, and the last 1,345 are for validation. The file is checked against its Git object
    in https://github.com/yburda/iwae. torchvision's Omniglot has another split and other images.

    Attributes:
        characters: True for the 1,623 characters as labels, False for the 50 alphabets.
    """

    _: KW_ONLY
    val_size: NonNegativeInt = 1345
    characters: bool = False

    name = "Omniglot"
    folder = "OMNIGLOT"
    url = "https://raw.githubusercontent.com/yburda/iwae/78a6075484bd7dd6f47a4bb9880d2295bc7a5220/datasets/OMNIGLOT/chardata.mat"
    arrays: ClassVar[Mapping[str, tuple[int, int]]] = {
        "data": (784, 24345),
        "target": (50, 24345),
        "targetchar": (1, 24345),
        "testdata": (784, 8070),
        "testtarget": (50, 8070),
        "testtargetchar": (1, 8070),
    }
    git_object: ClassVar[str] = "016a3536ffe5e1d38e42563a18d7a78bfaf643ec"

    def check(self) -> None:
        if (found := git_object(self.file)) != self.git_object:
            raise damaged(self.file, f"git hash-object {found}, not {self.git_object}")

    def splits(self, arrays: Mapping[str, Array]) -> Splits:
        x, test = column_major(arrays["data"]), column_major(arrays["testdata"])
        y = self._labels(arrays)
        order = torch.from_numpy(np.random.RandomState(123).permutation(len(x)))
        return Splits(Images(x[order], y[: len(x)][order]), Images(test, y[len(x) :]))

    def _labels(self, arrays: Mapping[str, Array]) -> Tensor:
        alphabet = np.concatenate([arrays["target"], arrays["testtarget"]], axis=1).argmax(0)
        if not self.characters:
            return torch.from_numpy(alphabet)
        number = np.concatenate([arrays["targetchar"], arrays["testtargetchar"]], axis=1)[0]
        _, character = np.unique(np.stack([alphabet, number]), axis=1, return_inverse=True)
        return torch.from_numpy(character.reshape(-1))


@dataclass(eq=False, repr=False)
class Caltech101Silhouettes(MatlabData):
    """The outlines of Caltech 101's objects, binary, 4,100 / 2,264 / 2,307 (Marlin et al. 2010).

    https://proceedings.mlr.press/v9/marlin10a.html. The pixels are those of the file.

    Attributes:
        invert: True to exchange 0 and 1, as in the code of Tomczak and Welling (2018).
    """

    _: KW_ONLY
    val_size: NonNegativeInt = 2264
    invert: bool = False

    name = "Caltech101 silhouettes"
    binary = True
    folder = "Caltech101Silhouettes"
    url = "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat"
    arrays: ClassVar[Mapping[str, tuple[int, int]]] = {
        "train_data": (4100, 784),
        "train_labels": (4100, 1),
        "val_data": (2264, 784),
        "val_labels": (2264, 1),
        "test_data": (2307, 784),
        "test_labels": (2307, 1),
    }

    def splits(self, arrays: Mapping[str, Array]) -> Splits:
        train, val, test = (self._images(arrays, split) for split in ("train", "val", "test"))
        return Splits(Images(torch.cat([train.x, val.x]), torch.cat([train.y, val.y])), test)

    def _images(self, arrays: Mapping[str, Array], split: str) -> Images:
        bits = arrays[f"{split}_data"]
        if not np.isin(bits, (0, 1)).all():
            raise damaged(self.file, f"{split}_data has other values than 0 and 1")
        x = column_major(bits.T) // 255
        labels = arrays[f"{split}_labels"][:, 0].astype(np.int64)
        return Images(1 - x if self.invert else x, torch.from_numpy(labels - 1))


@dataclass(eq=False, repr=False)
class FreyFaces(MatlabData):
    """1,965 frames of a film of Brendan Frey's face, 28 x 20 pixels of 256 levels, without labels.

    One fixed shuffle splits them into 1,565 / 200 / 200, the sizes of Tomczak and Welling (2018),
    https://arxiv.org/abs/1705.07120, whose own shuffle is not published. Frames that follow one another are alike, so
    the test set is close to the training set.
    """

    _: KW_ONLY
    val_size: NonNegativeInt = 200

    name = "Frey faces"
    labelled = False
    folder = "FreyFaces"
    url = "https://cs.nyu.edu/~roweis/data/frey_rawface.mat"
    arrays: ClassVar[Mapping[str, tuple[int, int]]] = {"ff": (560, 1965)}
    test_size: ClassVar[int] = 200

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, 28, 20)

    def splits(self, arrays: Mapping[str, Array]) -> Splits:
        pixels: NDArray[Any] = arrays["ff"]
        if pixels.dtype != np.uint8:
            raise damaged(self.file, f"its pixels have the type {pixels.dtype}, not uint8")
        x = torch.from_numpy(np.ascontiguousarray(pixels.T)).view(-1, *self.shape)
        x = x[torch.from_numpy(np.random.RandomState(0).permutation(len(x)))]
        y = torch.full((len(x),), -1)
        kept = len(x) - self.test_size
        return Splits(Images(x[:kept], y[:kept]), Images(x[kept:], y[kept:]))


def git_object(path: Path) -> str:
    """Return the name of a file's content in Git, the SHA-1 of its size and its bytes."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
