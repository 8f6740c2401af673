"""Static MNIST: text files, checksums and the packed cache."""

import hashlib
import os
import re
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets.utils
from numpy.typing import NDArray

from latentlab.data import EvaluationLoader, StaticMNIST, static
from latentlab.errors import UserError
from latentlab.protocols import Static

ROOT = Path(os.environ.get("LATENTLAB_DATA", "data"))
needs_static = pytest.mark.skipif(
    not (ROOT / "BinarizedMNIST" / "raw" / static.TRAIN).exists(),
    reason="BinarizedMNIST is not under LATENTLAB_DATA",
)


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.RandomState(0).randint(0, 2, (50, 784)).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set with matching checksums, and an empty cache."""
    raw = tmp_path / "data" / "BinarizedMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, part in zip(static.MD5, np.split(pixels, [30, 40]), strict=True):
        np.savetxt(raw / name, part, fmt="%d")
        monkeypatch.setitem(static.MD5, name, hashlib.md5((raw / name).read_bytes()).hexdigest())
    monkeypatch.setenv("LATENTLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def load(root: Path, val_size: int = 10) -> StaticMNIST:
    data = StaticMNIST(Static(), root, val_size=val_size)
    data.prepare_data()
    data.setup()
    return data


def flat(data: StaticMNIST) -> NDArray[np.uint8]:
    return torch.cat([data.train.x, data.val.x, data.test.x]).flatten(1).numpy()


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(root)
    assert re.fullmatch(r"[^\n]+", str(caught.value))
    return str(caught.value)


def test_the_three_files_are_the_three_splits(root: Path, pixels: NDArray[np.uint8]) -> None:
    data = load(root)
    assert data.num_examples == {"train": 30, "val": 10, "test": 10}
    assert np.array_equal(flat(data), pixels)
    assert data.train.y.tolist() == [-1] * 30
    assert load(root, val_size=0).num_examples == {"train": 40, "val": 0, "test": 10}


def test_the_second_read_is_from_the_cache_and_equal(
    root: Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(root)
    monkeypatch.setattr(static, "parse_amat", None)  # a call would fail
    assert np.array_equal(flat(load(root)), pixels)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-50], lambda content: b"", lambda content: b"x" * 99]
)
def test_a_damaged_cache_is_rebuilt(root: Path, pixels: NDArray[np.uint8], damage: object) -> None:
    assert callable(damage)
    load(root)
    cache = root.parent / "cache" / "binarized_mnist_valid.npz"
    good = cache.read_bytes()
    cache.write_bytes(damage(good))
    assert np.array_equal(flat(load(root)), pixels)
    with np.load(cache) as entry:
        assert entry["packed"].shape == (10, 98)


def test_a_flipped_bit_in_the_cache_is_found(root: Path, pixels: NDArray[np.uint8]) -> None:
    load(root)
    cache = root.parent / "cache" / "binarized_mnist_test.npz"
    content = bytearray(cache.read_bytes())
    content[content.index(np.packbits(pixels[40:], axis=1).tobytes())] ^= 1
    cache.write_bytes(content)
    assert np.array_equal(flat(load(root)), pixels)


def test_a_cache_that_cannot_be_written_is_skipped(
    root: Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root.parent / "file").touch()
    monkeypatch.setenv("LATENTLAB_CACHE", str(root.parent / "file" / "cache"))
    assert np.array_equal(flat(load(root)), pixels)


def test_nothing_is_written_next_to_the_data(root: Path) -> None:
    load(root)
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == sorted(static.MD5)


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_that_was_changed_or_truncated_is_named(root: Path, cached: bool) -> None:
    if cached:
        load(root)
    path = root / "BinarizedMNIST" / "raw" / static.VALID
    path.write_bytes(path.read_bytes()[:-1568])
    line = refusal(root)
    assert line.startswith(f"{path} is damaged") and line.endswith("delete it to download it again")


def test_a_missing_file_without_network_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", refuse)
    (root / "BinarizedMNIST" / "raw" / static.TEST).unlink()
    line = refusal(root)
    assert (
        static.TEST in line and str(root) in line and "LATENTLAB_DATA" in line and "binarised_digits" in line
    )
    assert capsys.readouterr() == ("", "")
    assert not list(root.rglob("tmp*"))


@pytest.mark.parametrize("text", [b"", b"0 1\n", b"0 2 " * 392])
def test_text_that_is_not_a_binary_image_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.amat").write_bytes(text)
    with pytest.raises(UserError, match=r"x\.amat is damaged"):
        static.parse_amat(tmp_path / "x.amat")


@needs_static
def test_the_real_set_has_its_published_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTLAB_CACHE", str(tmp_path))
    data = load(ROOT, val_size=10_000)
    assert data.num_examples == {"train": 50_000, "val": 10_000, "test": 10_000}
    for images, mean in ((data.train, 0.1306), (data.val, 0.1311), (data.test, 0.1325)):
        assert images.x.max() == 1
        assert images.x.float().mean().item() == pytest.approx(mean, abs=5e-5)
    loader = data.test_dataloader()
    assert isinstance(loader, EvaluationLoader)
    assert set(loader.x.unique().tolist()) == {0.0, 1.0}
    assert np.array_equal(flat(load(ROOT, val_size=10_000)), flat(data))
