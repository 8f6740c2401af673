"""A data set like MNIST, in the files of FashionMNIST: grey digits of 28 x 28 pixels, in any number.

    python benchmarks/bare/images.py FOLDER TRAIN TEST

The pictures are scikit-learn's digits, enlarged and repeated. They need no download, and their content does not change
the time. The files of MNIST itself are compared with its checksums, so they cannot hold other pictures.
"""

import sys
from pathlib import Path

import numpy as np

NAMES = {True: "train", False: "t10k"}


def write(root: Path, train: int, test: int) -> None:
    """Write `train` training images and `test` test images."""
    from sklearn.datasets import load_digits  # late, as no loop needs it

    pixels, labels = load_digits(return_X_y=True)
    large = np.kron(pixels.reshape(-1, 8, 8), np.ones((3, 3)))  # 24 x 24
    images = np.pad(large * 255 / 16, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, number in (("train", train), ("t10k", test)):
        chosen = np.arange(number) % len(labels)
        _write(raw / f"{name}-images-idx3-ubyte", images[chosen])
        _write(raw / f"{name}-labels-idx1-ubyte", labels[chosen].astype(np.uint8))


def _write(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    path.write_bytes(header + array.tobytes())


def read(root: str | Path, train: bool = True) -> np.ndarray:
    """Read the images, uint8 (N, 28, 28)."""
    path = Path(root) / "FashionMNIST" / "raw" / f"{NAMES[train]}-images-idx3-ubyte"
    return np.frombuffer(path.read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28).copy()


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
