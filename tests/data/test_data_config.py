"""The groups `data` and `protocol`, composed as the command line composes them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from latentlab.data import ImageData, StaticMNIST, TorchvisionData

CONF = Path(__file__).parents[2] / "conf"
PROTOCOLS = {
    "binarised_mnist": "threshold",
    "dynamic_mnist": "dynamic",
    "static_mnist": "static",
    "continuous_mnist": "continuous",
    "binarised_digits": "threshold",
    "continuous_digits": "continuous",
}


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    """A primary config with these two groups alone."""
    lines = ["defaults:", "  - protocol: threshold", "  - data: binarised_mnist", "  - _self_", "seed: 5"]
    searchpath = ["hydra:", "  searchpath:", f"    - file://{CONF}"]
    (tmp_path / "train.yaml").write_text("\n".join(lines + searchpath))
    return tmp_path


def composed(primary: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(primary), version_base="1.3"):
        return compose("train", list(overrides))


def data(primary: Path, *overrides: str) -> ImageData:
    made = instantiate(composed(primary, *overrides).data)
    assert isinstance(made, ImageData)
    return made


def test_every_file_of_the_groups_is_covered() -> None:
    images = [path.stem for path in (CONF / "data").glob("*.yaml") if "protocol:" in path.read_text()]
    assert set(images) == set(PROTOCOLS)
    assert all(
        path.read_text().startswith("# ")
        for group in ("data", "protocol")
        for path in (CONF / group).iterdir()
    )


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS.items())
def test_each_data_option_brings_its_protocol_and_seed(primary: Path, name: str, protocol: str) -> None:
    made = data(primary, f"data={name}")
    assert made.protocol.name == protocol
    assert (made.seed, made.draw_seed) == (5, 0)


@pytest.mark.parametrize("protocol", ["threshold", "dynamic", "continuous", "dequantised", "discrete"])
def test_an_explicit_protocol_wins(primary: Path, protocol: str) -> None:
    assert data(primary, "data=continuous_mnist", f"protocol={protocol}").protocol.name == protocol


def test_other_sets_and_options_come_from_the_command_line(
    primary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTLAB_DATA", "/somewhere")
    made = data(
        primary, "data.dataset=EMNIST", "+data.options.split=letters", "data.val_size=0", "data.batch_size=7"
    )
    assert isinstance(made, TorchvisionData)
    assert (made.name, made.options, made.val_size, made.batch_size) == ("EMNIST", {"split": "letters"}, 0, 7)
    assert made.folder == Path("/somewhere/EMNIST/raw")


def test_the_root_defaults_to_a_folder_of_the_project(primary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENTLAB_DATA", raising=False)
    made = data(primary, "data=static_mnist")
    assert isinstance(made, StaticMNIST)
    assert made.folder == Path("data/BinarizedMNIST/raw")
