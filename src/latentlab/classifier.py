"""Train the classifier whose features `fid.samples` compares: `latentlab classifier data=binarised_mnist`.

It learns the labels of the grey training images, and is saved as ROOT/classifiers/NAME.pt below the root of the data
sets. The words `data...` are those of train.py. The protocol of the data does not matter.
"""

import os
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from latentlab.cli import experiment
from latentlab.cli.calls import composed, process_restored
from latentlab.cli.command import OneLineParser
from latentlab.cli.screen import say, terminal, warn
from latentlab.cli.script import typed
from latentlab.data.images import ImageData
from latentlab.data.module import DataModule
from latentlab.data.own import FileData
from latentlab.errors import UserError
from latentlab.nn.classifier import Classifier
from latentlab.run.archive import outline
from latentlab.run.checkpoints import MISTAKES
from latentlab.run.files import replaced, sha256, write_text

BATCH = 128
LEAST_STEPS = 400
PASS = 500


@dataclass(frozen=True)
class FeatureNet:
    """A trained classifier from a file.

    Attributes:
        network: the classifier in evaluation mode.
        path: the file.
        sha256: the checksum of the file.
        accuracy: its accuracy on the test images, or None if the file does not tell.
    """

    network: Classifier
    path: Path
    sha256: str
    accuracy: float | None

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        """The features of images x in [0, 1], (N, C, H, W) to (N, 128), on the CPU."""
        return torch.cat([self.network.features(part.cpu()) for part in x.split(PASS)])


def default_path(data: DataModule) -> Path:
    """Return the file of the classifier of a data set."""
    root = getattr(data, "root", os.environ.get("LATENTLAB_DATA", "data"))
    name = re.sub(r"[^\w.-]", "_", "-".join(map(str, _words(data))))
    return Path(root).expanduser() / "classifiers" / f"{name}.pt"


def _words(data: DataModule) -> list[Any]:
    if isinstance(data, FileData):
        # Files of the same name may hold other images, and settings such as data.invert change them.
        return [data.name.lower(), data.digest[:8]]
    options = (getattr(data, "options", None) or {}).values()
    return [data.word if isinstance(data, ImageData) else data.name, *options]


def find(given: str | None, data: ImageData) -> FeatureNet:
    """Return the classifier in a file, or that of the data set.

    Args:
        given: the file of `fid.classifier`, or None.
        data: the data set.

    Raises:
        UserError: if there is none, or it has other shapes, or its checksum is wrong.
    """
    path = default_path(data) if given is None else Path(given).expanduser()
    if not path.is_file():
        raise UserError(_missing(given, path, data))
    digest = sha256(path)
    recorded = _record(path)
    if recorded.is_file() and recorded.read_text().split()[:1] != [digest]:
        raise UserError(
            f"{path} is damaged: its sha256 is not that of {recorded.name}: delete both and train it again"
        )
    try:
        outline(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        state, accuracy = (content["state"], content["accuracy"]) if "state" in content else (content, None)
        if not (accuracy is None or (type(accuracy) is float and 0 <= accuracy <= 1)):
            raise UserError(f"its accuracy is {accuracy!r}, no number from 0 to 1: give another file")
        network = adopted([*state.values()], data.shape)
    except UserError as error:
        raise UserError(f"fid.classifier={path}: {error}") from error
    except MISTAKES as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"fid.classifier={path}: no state dict of a classifier ({reason}): give another file"
        ) from error
    return FeatureNet(network, path, digest, accuracy)


def adopted(tensors: Sequence[Tensor], x_shape: tuple[int, ...]) -> Classifier:
    """Return a classifier with the weights in a state dict, whose names do not matter.

    Args:
        tensors: the weights and biases in the order of the layers, with or without those of the last layer.
        x_shape: the shape (C, H, W) of one image.

    Raises:
        UserError: if the shapes differ, or a weight is not finite.
    """
    classes = len(tensors[-1]) if len(tensors) == 8 else 10
    network = Classifier(x_shape, classes)
    own = network.state_dict()
    needed = [tuple(each.shape) for each in own.values()]
    shapes = [tuple(getattr(each, "shape", ())) for each in tensors]
    if shapes not in (needed, needed[:-2]):
        raise UserError(
            f"the weights have the shapes {shapes}, and the classifier of images {tuple(x_shape)} has {needed}: give "
            "another file, or leave out fid.classifier"
        )
    if not all(each.isfinite().all() for each in tensors):
        raise UserError("some weights are not finite: give another file, or train the classifier again")
    network.load_state_dict({**own, **dict(zip(own, tensors, strict=False))})
    return network.eval().requires_grad_(False)


def train(data: ImageData, epochs: int, seed: int) -> tuple[Classifier, float]:
    """Train a classifier on all grey training images, and return it with its accuracy on the test images."""
    grey, labels = torch.cat([data.train.x, data.val.x]), torch.cat([data.train.y, data.val.y])
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = Classifier(data.shape, data.num_classes)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for epoch in range(1, epochs + 1):
            for index in torch.randperm(len(grey)).split(BATCH):
                loss = cross_entropy(network.train()(_scaled(grey[index])), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            found = accuracy(network, data)
            say(
                terminal(),
                f"epoch {epoch}/{epochs}  loss {loss.item():.3f}  test accuracy {100 * found:.2f} %",
            )
    return network.eval(), found


@torch.inference_mode()
def accuracy(network: Classifier, data: ImageData) -> float:
    """Return the fraction of test images whose class the network finds."""
    network.eval()
    parts = zip(data.test.x.split(PASS), data.test.y.split(PASS), strict=True)
    right = [(network(_scaled(x)).argmax(1) == y).sum() for x, y in parts]
    return float(torch.stack(right).sum() / len(data.test.y))


def _scaled(pixels: Tensor) -> Tensor:
    return pixels / (1 if pixels.max() <= 1 else 255)


def parse(words: Sequence[str]) -> Namespace:
    """Parse the command line.

    Raises:
        UserError: for a mistake in it.
    """
    parser = OneLineParser(
        prog=typed("classifier"), description=__doc__.partition("\n\n")[0] if __doc__ else ""
    )
    parser.add_argument(
        "data", nargs="*", metavar="data...", help="the data, as for train.py: data=NAME, data.root=DIR"
    )
    parser.add_argument(
        "--epochs", type=int, help="the number of epochs (default: 3, and more for small data sets)"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args([re.sub(r"^(epochs|seed)=", r"--\1=", word) for word in words])
    for word in given.data:
        if not word.startswith(("data=", "data.")):
            parser.error(f"{word}: give settings of the data, such as data=binarised_mnist")
    if given.epochs is not None and given.epochs < 1:
        parser.error(f"epochs={given.epochs}: give at least 1")
    return given


def main(words: Sequence[str]) -> None:
    """Train the classifier of a data set, save it and print its path.

    Raises:
        UserError: for a mistake in the command line, or data without labels.
    """
    given = parse(words)
    with composed("train", given.data) as (cfg, job), process_restored():
        data = experiment.compose(cfg, job).build("data")
    _check(data)
    data.prepare_data()
    data.setup()
    path = default_path(data)
    steps = ceil((len(data.train.y) + len(data.val.y)) / BATCH)
    network, found = train(data, given.epochs or max(3, ceil(LEAST_STEPS / steps)), given.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as draft:
        torch.save({"state": network.state_dict(), "accuracy": found}, draft)
    write_text(_record(path), f"{sha256(path)}  {path.name}\n")
    print(path)


def _check(data: DataModule) -> None:
    if not isinstance(data, ImageData) or len(data.shape) != 3:
        raise UserError(f"{data.name} are no images: choose images, such as data=binarised_mnist")
    if not data.labelled:
        raise UserError(
            f"{data.name} has no labels to learn: choose labelled images, such as data=binarised_mnist"
        )
    if any(value is not None for value in (data.classes, data.train_size, data.labels)):
        raise UserError(
            "the classifier learns all classes and images: leave out data.classes, data.train_size and data.labels"
        )


def _missing(given: str | None, path: Path, data: ImageData) -> str:
    if given is not None:
        return f"fid.classifier={given}: there is no such file"
    if not data.labelled:
        return (
            f"{data.name} has no labels for a classifier: give that of another data set, fid.classifier=FILE"
        )
    return (
        f"fid.samples compares features of a classifier of {data.name}, and {path} is missing: train it by "
        "`latentlab classifier data=...` with the data of this run, or give fid.classifier=FILE"
    )


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as mistake:
        warn(f"error: {mistake}")
        sys.exit(1)
