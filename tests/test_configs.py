"""Every option of every group, and every experiment, from the real conf/: new files are covered as they come."""

from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, call
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from latentlab.checks import check_config

CONF = ROOT / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
EXPERIMENTS = [option for group, option in OPTIONS if group == "experiment"]
# Read by Hydra alone, or built by something else than `instantiate`.
NEEDS = {
    "logger": {"tensorboard": ["tensorboard"]},
    "trainer": {"gpu": ["CUDA"], "ddp": ["CUDA"]},
}
# Training an experiment for an epoch on little data.
BRIEF = ("trainer.max_epochs=1", "logger=none", "callbacks=none", "trainer=cpu")


@pytest.fixture(autouse=True)
def composer(monkeypatch):
    monkeypatch.setenv("LATENTLAB_DATA", "data")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> tuple[DictConfig, Any, Any]:
    """An experiment as composed, and as plain values with and without its interpolations."""
    config = compose("train", list(overrides), return_hydra_config=True)
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(config)
    OmegaConf.set_readonly(config.hydra, None)
    config = compose("train", list(overrides))
    return config, OmegaConf.to_container(config), OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_fits_the_code(group, option):
    _, raw, resolved = composed(f"{group}={option}")
    check_config(raw, resolved)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_says_what_it_is(group, option):
    first = (CONF / group / f"{option}.yaml").read_text().splitlines()
    comment = next(line for line in first if not line.startswith("# @package"))
    assert comment.startswith("# ") and len(comment) > 10


@pytest.mark.parametrize(
    ("group", "option"), [each for each in OPTIONS if each[0] in ("module", "data", "model", "callbacks", "protocol")]
)
def test_every_option_can_be_built(group, option):
    config, _, _ = composed(f"{group}={option}")
    data, module = instantiate(config.data), instantiate(config.module)
    assert data is not None and sum(p.numel() for p in module.parameters()) >= 0
    assert all(instantiate(entry) is not None for entry in config.callbacks.values() if entry)


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "trainer"])
def test_every_trainer_shards_by_itself_and_validates_every_epoch(option):
    config, _, _ = composed(f"trainer={option}")
    assert config.trainer.use_distributed_sampler is False
    assert config.trainer.num_sanity_val_steps == 0


@pytest.mark.parametrize("objective", [option for group, option in OPTIONS if group == "objective"])
@pytest.mark.parametrize("posterior", [option for group, option in OPTIONS if group == "posterior"])
def test_pairs_are_built_or_refused_with_the_options_that_work(objective, posterior):
    from latentlab.errors import UserError

    config, _, _ = composed(f"objective={objective}", f"posterior={posterior}", "encoder.hidden=[8]")
    try:
        instantiate(config.module)
    except Exception as error:
        assert isinstance(error.__cause__, UserError) and "=" in str(error.__cause__), error


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_for_an_epoch(tmp_path: Path, experiment: str):
    done = call("train.py", f"experiment={experiment}", *BRIEF, f"hydra.run.dir={tmp_path}/run")
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "summary.json").exists()
