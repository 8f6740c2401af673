"""The classifier of the FID: its training, its file, and evaluations that use it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call, refusal
from runs import train
from torch import nn

from latentlab import classifier, quality
from latentlab.data import ImageFiles
from latentlab.data.digits import Digits
from latentlab.errors import UserError
from latentlab.nn.classifier import Classifier
from latentlab.protocols import Continuous

SCORED = ("nll.samples=0", "mutual_information.examples=0", "figures.draw=false")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of data sets with a classifier of the digits, trained by the command for an epoch."""
    folder = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTLAB_DATA", str(folder))
        classifier.main(["data=binarised_digits", "epochs=1"])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run") / "run")


def evaluate(run: Path, root: Path, *words: str) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTLAB_DATA", str(root))
        done = call("evaluate.py", f"run={run}", *SCORED, *words)
    assert done.status == 0, done.err
    return json.loads((run / "evaluation.json").read_text())


def test_the_classifier_learns_and_its_file_is_checked(root: Path) -> None:
    data = Digits(Continuous())
    path = root / "classifiers" / "digits.pt"
    net = classifier.find(str(path), data)
    assert net.accuracy is not None and net.accuracy > 0.8
    assert classifier.accuracy(net.network, data) == pytest.approx(net.accuracy)
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    with pytest.raises(UserError, match="sha256"):
        classifier.find(str(path), data)
    path.write_bytes(content)


def test_samples_are_compared_with_images_and_recorded(run: Path, root: Path) -> None:
    found = evaluate(run, root, "fid.samples=60", "speed.samples=20")
    names = [f"test/{name}_classifier_n60{end}" for name in quality.MEASURES for end in ("", "_floor")]
    assert all(found[name] == found[name] and found[f"{name}_stderr"] >= 0 for name in names)
    assert found["test/fid_classifier_n60"] > 3 * found["test/fid_classifier_n60_floor"]
    assert found["test/samples_per_second"] > 0
    settings = found["settings"]
    assert settings["fid.samples"] == 60 and settings["fid.reference"] == "270 test"
    digest = (root / "classifiers" / "digits.pt.sha256").read_text().split()[0]
    assert settings["fid.classifier"] == f"digits.pt sha256 {digest}"
    assert 0.8 < settings["fid.accuracy"] <= 1
    again = evaluate(run, root, "fid.samples=60", "fid.means=true")
    assert again["test/fid_classifier_n60_floor"] == found["test/fid_classifier_n60_floor"]
    assert again["test/fid_classifier_n60_means"] != found["test/fid_classifier_n60"]
    assert "test/fid_classifier_n60" not in again


def test_a_state_dict_of_the_same_layers_is_accepted_under_any_names(
    run: Path, root: Path, tmp_path: Path
) -> None:
    theirs = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    net = classifier.find(str(tmp_path / "theirs.pt"), Digits(Continuous()))
    x = torch.rand(3, 1, 28, 28)
    assert torch.allclose(net.features(x), theirs[:7](2 * x - 1), atol=1e-6)
    assert net.accuracy is None


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["fid.samples=100000"], "fid.samples=100000"),
        (["fid.samples=4"], "8"),
        (["fid.samples=271", "fid.reference=train"], "270"),  # the floor is of test images
        (["fid.samples=20", "fid.classifier=missing.pt"], "fid.classifier=missing.pt"),
        (["fid.samples=20", "data.root=nowhere"], "latentlab classifier"),
        (["sampling.steps=3"], "sampling.steps"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    run: Path, root: Path, words: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTLAB_DATA", str(root) if "data.root=nowhere" not in words else "nowhere")
    before = sorted(path.name for path in run.rglob("*"))
    words = [word for word in words if word != "data.root=nowhere"]
    assert named in refusal(call("evaluate.py", f"run={run}", *SCORED, *words))
    assert sorted(path.name for path in run.rglob("*")) == before


WEIGHTS = Classifier((1, 28, 28), 10).state_dict()


@pytest.mark.parametrize(
    "content",
    [
        *({"a": torch.zeros(3)}, {"state": 3, "accuracy": 1.0}, [1, 2]),
        {**WEIGHTS, "body.7.bias": torch.full((128,), torch.nan)},
        *({"state": WEIGHTS, "accuracy": value} for value in ("0.9", 2.0, True, torch.nan)),
    ],
    ids=["other keys", "no weights", "a list", "NaN weights", "words", "above 1", "a truth value", "NaN"],
)
def test_a_file_with_other_weights_is_one_line(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match="classifier="):
        classifier.find(str(tmp_path / "other.pt"), Digits(Continuous()))


def test_image_files_of_one_name_have_their_own_classifiers(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        pixels = np.random.RandomState(ord(folder)).randint(0, 256, (20, 8, 8)).astype(np.uint8)
        np.savez(tmp_path / folder / "images.npz", pixels)
    first, second = (tmp_path / folder / "images.npz" for folder in ("a", "b"))
    data = [
        ImageFiles(Continuous(), first),
        ImageFiles(Continuous(), first, invert=True),
        ImageFiles(Continuous(), second),
    ]
    names = {classifier.default_path(each).name for each in data}
    assert len(names) == 3
    digest = data[0].digest
    # A run records the checksum, and the command that trains the classifier does not.
    assert classifier.default_path(ImageFiles(Continuous(), first, sha256=digest)).name in names


def test_runs_without_samples_have_no_distances(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tmp_path / "run", "model=autoencoder")
    monkeypatch.setenv("LATENTLAB_DATA", str(root))
    assert "samples" in refusal(call("evaluate.py", f"run={run}", *SCORED, "fid.samples=20"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model=vae"], "model=vae"),
        (["data=binarised_digits", "epochs=0"], "epochs=0"),
        (["data=binarised_digits", "data.classes=[0,1]"], "data.classes"),
        (["data=static_mnist"], "labels"),
    ],
)
def test_the_command_refuses_what_it_cannot_learn(words: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        classifier.main(words)
