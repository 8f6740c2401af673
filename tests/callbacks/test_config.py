from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning import Callback

CONF = str(Path(__file__).parents[2] / "conf" / "callbacks")


@pytest.mark.parametrize(("name", "count"), [("default", 9), ("early_stopping", 10), ("none", 0)])
def test_every_entry_is_a_callback(name, count):
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose(name)
    callbacks = [instantiate(node) for node in config.values()]
    assert len(callbacks) == count
    assert all(isinstance(callback, Callback) for callback in callbacks)


def test_an_entry_can_be_changed_or_left_out():
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("default", ["latents.every_n_epochs=5", "~manifold"])
    assert config.latents.every_n_epochs == 5
    assert "manifold" not in config
