from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning import Callback

CONF = str(Path(__file__).parents[2] / "conf")


OPTIONS = sorted(path.stem for path in (Path(CONF) / "callbacks").glob("*.yaml"))
IMAGES = [name for name in OPTIONS if not name.startswith("classical")]  # the others come with their model


@pytest.mark.parametrize("name", IMAGES)
def test_every_entry_is_a_callback(name):
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", [f"callbacks={name}"])
    callbacks = [instantiate(node) for node in config.callbacks.values() if node]
    assert len(callbacks) >= 5
    assert all(isinstance(callback, Callback) for callback in callbacks)


def test_an_entry_can_be_changed_or_left_out():
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", ["callbacks.latents.every_n_epochs=5", "~callbacks.manifold"]).callbacks
    assert config.latents.every_n_epochs == 5
    assert "manifold" not in config
