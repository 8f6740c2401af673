"""Sets in .mat files, from small files of the same layout."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import OFFLINE, call, refusal
from scipy.io import savemat

from latentlab.data import Caltech101Silhouettes, FreyFaces, Omniglot
from latentlab.data.matlab import MatlabData, git_object
from latentlab.errors import UserError
from latentlab.protocols import Continuous, Static

RANDOM = np.random.RandomState(0)
# A drawing whose transpose and mirror images differ.
DRAWING = np.zeros((28, 28))
DRAWING[3:8, 2] = DRAWING[7, 2:20] = 1.0


def drawings(number: int) -> np.ndarray:
    """Drawings, (N, 28, 28), whose first pixels count them in bits."""
    x = np.repeat(DRAWING[None], number, 0)
    x[:, 0, :8] = np.arange(number)[:, None] >> np.arange(8) & 1
    return x


def in_columns(x: np.ndarray) -> np.ndarray:
    """The images as MATLAB stores them, (784, N), each column by column."""
    return x.swapaxes(1, 2).reshape(len(x), -1).T


def smaller(monkeypatch: pytest.MonkeyPatch, kind: type[MatlabData], sizes: Mapping[int, int]) -> None:
    arrays = {name: tuple(sizes.get(n, n) for n in shape) for name, shape in kind.arrays.items()}
    monkeypatch.setattr(kind, "arrays", arrays)


def write(data: MatlabData, /, **arrays: np.ndarray) -> None:
    data.file.parent.mkdir(parents=True, exist_ok=True)
    savemat(data.file, arrays)


@pytest.fixture
def omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Omniglot:
    smaller(monkeypatch, Omniglot, {24345: 30, 8070: 10})
    data = Omniglot(Continuous(), tmp_path, val_size=8)
    x, y = drawings(40) * 0.4, np.arange(40) % 3
    target = np.eye(50)[:, y]
    char = (np.arange(40) // 20 + 1)[None]
    write(
        data,
        **{"data": in_columns(x[:30]), "target": target[:, :30], "targetchar": char[:, :30]},
        **{"testdata": in_columns(x[30:]), "testtarget": target[:, 30:], "testtargetchar": char[:, 30:]},
    )
    monkeypatch.setattr(Omniglot, "git_object", git_object(data.file))
    return data


def test_omniglot_stands_upright_in_burdas_order(omniglot: Omniglot) -> None:
    omniglot.setup()
    assert omniglot.num_examples == {"train": 22, "val": 8, "test": 10} and omniglot.num_classes == 3
    x = torch.cat([omniglot.train.x, omniglot.val.x, omniglot.test.x])
    order = [*np.random.RandomState(123).permutation(30), *range(30, 40)]
    grey = (drawings(40)[order] * 102).astype(np.uint8)  # 0.4 of 255
    assert np.array_equal(x.numpy(), grey[:, None])
    y = torch.cat([omniglot.train.y, omniglot.val.y, omniglot.test.y])
    assert y.tolist() == [n % 3 for n in order]


def test_a_character_of_omniglot_belongs_to_its_alphabet(omniglot: Omniglot) -> None:
    omniglot.characters = True
    y = torch.cat([omniglot.train.y, omniglot.val.y, omniglot.test.y])
    order = [*np.random.RandomState(123).permutation(30), *range(30, 40)]
    assert y.tolist() == [n % 3 * 2 + n // 20 for n in order]


def test_another_file_of_omniglot_is_refused(omniglot: Omniglot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"chardata\.mat is damaged \(git hash-object \w+, not 016a35"):
        omniglot.setup()


def test_the_name_of_a_git_object(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert git_object(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


@pytest.mark.parametrize("invert", [False, True])
def test_silhouettes_keep_their_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invert: bool) -> None:
    smaller(monkeypatch, Caltech101Silhouettes, {4100: 12, 2264: 5, 2307: 6})
    data = Caltech101Silhouettes(Static(), tmp_path, val_size=5, invert=invert)
    x, y = drawings(23).astype(np.uint8), np.arange(23) % 4 + 1
    cuts = {"train": slice(0, 12), "val": slice(12, 17), "test": slice(17, 23)}
    images = {f"{split}_data": in_columns(x[cut]).T for split, cut in cuts.items()}
    write(data, **images, **{f"{split}_labels": y[cut][:, None] for split, cut in cuts.items()})
    data.setup()
    for split, cut in cuts.items():
        found = getattr(data, split)
        assert np.array_equal(found.x.numpy()[:, 0], 1 - x[cut] if invert else x[cut])
        assert found.y.tolist() == (y[cut] - 1).tolist()


def test_frey_faces_are_shuffled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller(monkeypatch, FreyFaces, {1965: 300})
    faces = RANDOM.randint(0, 256, (300, 28, 20)).astype(np.uint8)
    data = FreyFaces(Continuous(), tmp_path, val_size=20)
    write(data, ff=faces.reshape(300, -1).T)
    data.setup()
    assert data.shape == (1, 28, 20) and data.num_examples == {"train": 80, "val": 20, "test": 200}
    x = torch.cat([data.train.x, data.val.x, data.test.x])[:, 0].numpy()
    assert np.array_equal(x, faces[np.random.RandomState(0).permutation(300)])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    data = FreyFaces(Continuous(), tmp_path)
    wrong = {"is missing": None, "has the shape": np.zeros((560, 5)), "float64": np.zeros((560, 1965))}
    for words, pixels in wrong.items():
        if pixels is not None:
            write(data, ff=pixels)
        with pytest.raises(UserError, match=rf"^{re.escape(str(data.file))} [^\n]*{words}"):
            FreyFaces(Continuous(), tmp_path).setup()
    data.file.write_bytes(b"no MATLAB")
    with pytest.raises(UserError, match="is damaged"):
        FreyFaces(Continuous(), tmp_path).setup()


def test_a_set_that_cannot_be_downloaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    line = refusal(call("train.py", "data=omniglot", f"data.root={tmp_path}/data", "logger=none"))
    assert "Omniglot is not in" in line and "data.root" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
