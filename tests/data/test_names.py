"""The names of data sets and their subsets."""

from pathlib import Path

import pytest
import torch
from commands import QUICK, call, refusal
from parts import composed, options

from latentlab.data import Digits, StaticMNIST, TorchvisionData
from latentlab.errors import UserError
from latentlab.protocols import Continuous, Dynamic, Static, Threshold
from latentlab.run.config import read_config
from latentlab.run.results import read_results

IMAGES = [name for name in options("data") if name.endswith(("_mnist", "_digits"))]


@pytest.mark.parametrize("option", IMAGES)
def test_a_data_set_as_it_comes_is_named_after_its_option(option: str) -> None:
    assert composed(f"data={option}").names.data == option


NAMES = {
    "binarised_fashionmnist": ("data.dataset=FashionMNIST",),
    "binarised_emnist_split-balanced": ("data.dataset=EMNIST", "+data.options.split=balanced"),
    "dynamic_mnist": ("protocol=dynamic",),
    "binarised_mnist_val_size-0": ("data.val_size=0",),
    "binarised_mnist_classes-0+2_train_size-2048": ("data.classes=[0,2]", "data.train_size=2048"),
    "binarised_mnist": ("data.batch_size=64", "seed=3", "data.root=/elsewhere"),
    "gamma_draws": ("model=gamma_mle",),
}


@pytest.mark.parametrize(("name", "overrides"), NAMES.items(), ids=NAMES)
def test_every_setting_that_chooses_other_images_is_in_the_name(
    name: str, overrides: tuple[str, ...]
) -> None:
    assert composed(*overrides).names.data == name


def test_a_long_name_is_cut_and_stays_different() -> None:
    one, other = (Digits(Threshold(), classes=[*range(60), last]).full_name for last in (60, 61))
    assert one != other and len(one) == len(other) == 80


def test_a_class_of_a_set_is_named_by_its_settings() -> None:
    assert TorchvisionData(Continuous(), dataset="KMNIST").full_name == "continuous_kmnist"
    assert StaticMNIST(Static(), val_size=5).full_name == "static_mnist_val_size-5"
    assert Digits(Dynamic(), draw_seed=1).full_name == "dynamic_digits_draw_seed-1"


def test_a_run_is_named_after_its_data_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finished = call(
        "train.py", *QUICK, "data.classes=[3,5]", "data.train_size=100", "trainer.log_every_n_steps=1"
    )
    name = "binarised_digits_classes-3+5_train_size-100"
    assert finished.status == 0 and name in finished.out
    [run] = tmp_path.glob(f"outputs/*/*_vae_{name}_seed0")
    assert (
        read_results(run / "summary.json")["data"]
        == name
        == read_config(run / "config.yaml")["names"]["data"]
    )
    again = ("trainer.max_epochs=2", f"resume={run}")
    assert "data.dataset=KMNIST" in refusal(call("train.py", *again, "data.dataset=KMNIST"))
    same = (
        "data=binarised_digits",
        "data.classes=[3,5]",
        "data.train_size=100",
        "trainer.log_every_n_steps=1",
    )
    assert call("train.py", *again, *same).status == 0


def test_classes_are_kept_in_all_splits_and_numbered_by_their_places() -> None:
    whole, data = Digits(Continuous()), Digits(Continuous(), classes=[5, 3])
    for images, kept in zip(
        (whole.train, whole.val, whole.test), (data.train, data.val, data.test), strict=True
    ):
        chosen = (images.y == 5) | (images.y == 3)
        assert torch.equal(kept.x, images.x[chosen])
        assert torch.equal(kept.y, (images.y[chosen] == 3).long())
    assert data.num_classes == 2


def test_the_training_images_are_the_first_after_the_validation_set() -> None:
    whole, data = Digits(Continuous()), Digits(Continuous(), train_size=20)
    assert torch.equal(data.train.x, whole.train.x[:20])
    assert torch.equal(data.val.x, whole.val.x) and torch.equal(data.test.x, whole.test.x)


REFUSED = {
    r"data.classes=\[1,12\]: Digits has no class 12: its classes are 0, 1, .*, 9": {"classes": [1, 12]},
    r"data.classes=\[1,1\]: give one or more classes, each once": {"classes": [1, 1]},
    r"data.classes=\[\]: give one or more classes": {"classes": []},
    r"data.train_size=1258: there are 1257 training images": {"train_size": 1258},
    r"data.classes=\[3\]: a split of Digits has no such image": {"classes": [3], "val_size": 1},
}


@pytest.mark.parametrize(("line", "settings"), REFUSED.items(), ids=REFUSED)
def test_a_subset_that_is_not_there_is_refused(line: str, settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        Digits(Threshold(), **settings).setup()  # type: ignore[arg-type]
