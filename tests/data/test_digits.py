"""The resized digits, compared with those of scikit-learn."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import adaptive_avg_pool2d

from latentlab.data import Digits
from latentlab.data.digits import resize
from latentlab.protocols import Continuous


def test_resizing_keeps_black_white_and_the_average_of_an_image() -> None:
    flat = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 16.0)])
    assert resize(flat).flatten(1).unique(dim=1).tolist() == [[0], [255]]
    pixels = torch.from_numpy(load_digits().data).float().view(-1, 1, 8, 8)
    small = adaptive_avg_pool2d(resize(pixels).float(), 8) * 16 / 255
    assert (small - pixels).abs().mean() < 1  # of 16 levels
    assert abs((resize(pixels).float().mean() / 255 - pixels.mean() / 16).item()) < 0.01


def test_every_digit_of_scikit_learn_is_there_with_its_label() -> None:
    data = Digits(Continuous())
    pixels, labels = load_digits(return_X_y=True)
    expected = {
        bytes(row): int(label) for row, label in zip(as_rows(torch.from_numpy(pixels)), labels, strict=True)
    }
    x, y = (torch.cat(parts) for parts in zip(data.train, data.val, data.test, strict=True))
    assert {bytes(row): int(label) for row, label in zip(x.flatten(1).numpy(), y, strict=True)} == expected


def as_rows(pixels: torch.Tensor) -> Any:
    return resize(pixels.float().view(-1, 1, 8, 8)).flatten(1).numpy()


def test_every_split_has_all_ten_classes() -> None:
    data = Digits(Continuous())
    for images in (data.train, data.val, data.test):
        assert images.y.unique().tolist() == list(range(10))
        assert images.y.bincount().min() > 0.07 * len(images.y)
