"""Files of MNIST: damaged synthetic files, and the real files if they are under LATENTLAB_DATA."""

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets.mnist
from numpy.typing import NDArray

from latentlab.data import EvaluationLoader, TorchvisionData
from latentlab.data.mnist import MNIST_MD5
from latentlab.errors import UserError
from latentlab.protocols import Continuous, Dequantised, Discrete, Dynamic, Protocol, Threshold

ROOT = Path(os.environ.get("LATENTLAB_DATA", "data"))
needs_mnist = pytest.mark.skipif(
    not (ROOT / "MNIST" / "raw" / "train-images-idx3-ubyte").exists(),
    reason="MNIST is not under LATENTLAB_DATA",
)


def write_idx(path: Path, sizes: tuple[int, ...]) -> None:
    values = torch.arange(int(torch.tensor(sizes).prod())).to(torch.uint8)
    path.write_bytes(struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + bytes(values.tolist()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Small synthetic data sets in the format of MNIST."""
    for dataset in ("MNIST", "FashionMNIST"):
        raw = tmp_path / dataset / "raw"
        raw.mkdir(parents=True)
        for split, n in (("train", 30), ("t10k", 10)):
            write_idx(raw / f"{split}-images-idx3-ubyte", (n, 28, 28))
            write_idx(raw / f"{split}-labels-idx1-ubyte", (n,))
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        print("Downloading http://...")
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", refuse)


def refusal(data: TorchvisionData) -> str:
    """Return the error of `prepare_data` or `setup`, one line."""
    with pytest.raises(UserError) as caught:
        data.prepare_data()
        data.setup()
    assert re.fullmatch(r"[^\n]+", str(caught.value))
    return str(caught.value)


def test_the_last_training_images_are_for_validation(root: Path) -> None:
    data = TorchvisionData(Threshold(), root, "FashionMNIST", val_size=10)
    data.prepare_data()
    assert data.num_examples == {"train": 20, "val": 10, "test": 10}
    assert torch.cat([data.train.y, data.val.y]).tolist() == list(range(30))
    assert data.test.x.flatten()[:3].tolist() == [0, 1, 2]


def test_a_truncated_file_is_named(root: Path, offline: None) -> None:
    path = root / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    line = refusal(TorchvisionData(Threshold(), root, "FashionMNIST", val_size=10))
    assert str(path) in line and line.endswith("delete it to download it again")


@pytest.mark.parametrize(
    "lengths",
    [(30, 28, 27), (31, 28, 28), (2**32 - 1,) * 3, (0, 28, 28), (30, 28), (30, 28, 28, 1)],
    ids=str,
)
def test_a_header_that_does_not_fit_the_file_is_refused(
    root: Path, offline: None, lengths: tuple[int, ...]
) -> None:
    path = root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    header = struct.pack(f">HBB{len(lengths)}I", 0, 8, len(lengths), *lengths)
    path.write_bytes(header + bytes(30 * 28 * 28))
    line = refusal(TorchvisionData(Threshold(), root, "FashionMNIST", val_size=10))
    assert str(path) in line and "not a whole idx file" in line


def test_signed_bytes_are_refused(root: Path, offline: None) -> None:
    path = root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[2] = 9
    path.write_bytes(content)
    line = refusal(TorchvisionData(Threshold(), root, "FashionMNIST", val_size=10))
    assert str(path) in line and "type 9, not 3 of unsigned bytes" in line


def test_images_of_another_size_are_refused(root: Path, offline: None) -> None:
    path = root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    write_idx(path, (30, 14, 14))
    line = refusal(TorchvisionData(Threshold(), root, "FashionMNIST", val_size=10))
    assert f"{path} holds images of 14x14 pixels, not 28x28" in line and "data.root" in line


def test_fewer_labels_than_images_are_refused(root: Path, offline: None) -> None:
    write_idx(root / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte", (20,))
    line = refusal(TorchvisionData(Threshold(), root, "FashionMNIST", val_size=10))
    assert "20 labels for 30 images" in line


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_something_else_than_a_file_is_not_read(
    root: Path, offline: None, name: str, make: Callable[[Path], None]
) -> None:
    """A pipe would be waited for forever."""
    for dataset in ("FashionMNIST", "MNIST"):
        path = root / dataset / "raw" / name
        path.unlink(missing_ok=True)
        make(path)
        assert f"{path} is not a file" in refusal(TorchvisionData(Threshold(), root, dataset, val_size=10))


def test_a_root_that_is_a_file_ends_in_one_line(tmp_path: Path, offline: None) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((UserError, OSError), match="file"):  # the command line explains both
        TorchvisionData(Threshold(), tmp_path / "file", "FashionMNIST").prepare_data()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\0\0\x08\x03\0\0"])
def test_a_file_of_another_kind_is_named(root: Path, offline: None, content: bytes) -> None:
    path = root / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    path.write_bytes(content)
    assert str(path) in refusal(TorchvisionData(Threshold(), root, "FashionMNIST", val_size=10))


def test_a_file_with_the_right_size_and_wrong_bytes_is_named(root: Path, offline: None) -> None:
    line = refusal(TorchvisionData(Threshold(), root, "MNIST", val_size=10))
    assert "train-images-idx3-ubyte is damaged (md5" in line and "delete it" in line


def test_a_missing_file_without_network_ends_in_one_line(
    tmp_path: Path, offline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(TorchvisionData(Threshold(), tmp_path, "MNIST"))
    assert "train-images-idx3-ubyte.gz" in line and str(tmp_path) in line
    assert "LATENTLAB_DATA" in line and "data=binarised_digits" in line
    assert capsys.readouterr() == ("", "")


def test_a_missing_file_without_download_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^MNIST is not in .*: point data.root or LATENTLAB_DATA"):
        TorchvisionData(Threshold(), tmp_path).setup()


@pytest.mark.parametrize(
    ("dataset", "hint"),
    [("mnist", "did you mean MNIST?"), ("FashonMNIST", "FashionMNIST?"), ("cats", "choose from")],
)
def test_an_unknown_set_is_refused_with_a_suggestion(tmp_path: Path, dataset: str, hint: str) -> None:
    with pytest.raises(UserError, match=re.escape(hint)):
        TorchvisionData(Threshold(), tmp_path, dataset)


def test_options_that_do_not_fit_are_refused(tmp_path: Path, offline: None) -> None:
    for dataset, options in (
        ("MNIST", {"split": "letters"}),
        ("EMNIST", {"split": "letter"}),
        ("EMNIST", {}),
    ):
        line = refusal(TorchvisionData(Threshold(), tmp_path, dataset, options))
        assert line.startswith(f"data.options={options} does not fit {dataset}")


def expected_mean(protocol: Protocol, grey: NDArray[np.uint8]) -> float:
    """Return the mean of x by the equation of the protocol, from independently read grey levels."""
    if protocol.name == "threshold":
        return float((grey / 255 > 0.5).mean())
    return float((grey.mean() + 0.5) / 256 if protocol.name == "dequantised" else grey.mean() / 255)


@pytest.fixture(scope="module")
def real() -> TorchvisionData:
    return TorchvisionData(Threshold(), ROOT)


@needs_mnist
@pytest.mark.parametrize(
    "protocol", [Threshold(), Dynamic(), Continuous(), Dequantised(), Discrete()], ids=lambda p: p.name
)
def test_the_real_mnist_has_its_sizes_range_and_means(real: TorchvisionData, protocol: Protocol) -> None:
    real.protocol, data = protocol, real
    assert data.num_examples == {"train": 50_000, "val": 10_000, "test": 10_000}
    validation = data.val_dataloader()
    assert isinstance(validation, EvaluationLoader)
    train = torch.cat([batch.x for batch in data.train_dataloader()])
    files = [np.fromfile(ROOT / "MNIST" / "raw" / name, np.uint8, offset=16) for name in list(MNIST_MD5)[::2]]
    for x, grey in zip(
        (train, validation.x, data.test_dataloader().x),
        (files[0][: 50_000 * 784], files[0][50_000 * 784 :], files[1]),
        strict=True,
    ):
        assert x.shape == (len(grey) // 784, 1, 28, 28)
        assert x.min() >= 0 and x.max() <= 1
        # The standard error of a dynamic draw over 10,000 images is 5e-5, and the draw is fixed.
        assert x.double().mean().item() == pytest.approx(expected_mean(protocol, grey), abs=2e-4)


@needs_mnist
def test_one_flipped_bit_in_the_real_mnist_is_found(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in MNIST_MD5:
        (raw / name).symlink_to((ROOT / "MNIST" / "raw" / name).resolve())
    content = bytearray((raw / "t10k-labels-idx1-ubyte").read_bytes())
    content[5000] ^= 1
    (raw / "t10k-labels-idx1-ubyte").unlink()
    (raw / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte is damaged"):
        TorchvisionData(Threshold(), tmp_path).setup()
