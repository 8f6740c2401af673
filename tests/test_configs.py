"""Every option of every group, and every experiment, from the real conf/: new files are covered as they come."""

from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, call
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from latentlab.cli.checks import check_config
from latentlab.errors import UserError

CONF = ROOT / "conf"
APART = ("hydra",)  # the groups of Hydra itself
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in APART)
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
# Options that are made for one model.
NEEDS = {
    ("data", "earthquakes"): ["model=cavi_earthquakes"],
    **{("chain", option): ["model=markovian_hvae"] for group, option in OPTIONS if group == "chain"},
}
# What makes an experiment with large networks small enough to try.
SMALLER = {
    "conv_ladder_static": ["model.rungs.width=8", "model.rungs.blocks=1"],
    "latent_vdm_long": ["encoder.channels=[8,8]", "decoder.channels=[8,8]", "denoiser.width=64"],
}


def options(group: str) -> list[str]:
    return [option for each, option in OPTIONS if each == group]


def composed(*overrides: str) -> tuple[DictConfig, Any, Any]:
    """An experiment as composed, and as plain values with and without its interpolations."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        HydraConfig.instance().set_config(compose("train", list(overrides), return_hydra_config=True))
        config = compose("train", list(overrides))
    return config, OmegaConf.to_container(config), OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_fits_the_code(group, option):
    _, raw, resolved = composed(f"{group}={option}", *NEEDS.get((group, option), []))
    check_config(raw, resolved)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_says_what_it_is(group, option):
    first = (CONF / group / f"{option}.yaml").read_text().splitlines()
    comment = next(line for line in first if not line.startswith("# @package"))
    assert comment.startswith("# ")


@pytest.mark.parametrize("model", options("model"))
def test_every_model_can_be_built_with_its_data_and_callbacks(model):
    config, _, _ = composed(f"model={model}")
    data, module = instantiate(config.data), instantiate(config.module)
    module.check(data)
    assert all(instantiate(entry) is not None for entry in config.callbacks.values() if entry)


@pytest.mark.parametrize("option", options("trainer"))
def test_every_trainer_shards_by_itself_and_validates_every_epoch(option):
    config, _, _ = composed(f"trainer={option}")
    assert config.trainer.use_distributed_sampler is False
    assert config.trainer.num_sanity_val_steps == 0


@pytest.mark.parametrize("objective", options("objective"))
@pytest.mark.parametrize("posterior", options("posterior"))
def test_pairs_are_built_or_refused_with_the_options_that_work(objective, posterior):
    config, _, _ = composed(f"objective={objective}", f"posterior={posterior}", "encoder.hidden=[8]")
    try:
        instantiate(config.module)
    except Exception as error:
        assert isinstance(error.__cause__, UserError) and "=" in str(error.__cause__), error


def brief(experiment: str) -> list[str]:
    """Settings under which an experiment trains on few images, and on none that must be downloaded."""
    composed(f"experiment={experiment}")
    chosen = HydraConfig.get().runtime.choices
    settings = ["trainer.max_epochs=1", "trainer.log_every_n_steps=1", "logger=none", "trainer=cpu"]
    settings += SMALLER.get(experiment, [])
    if chosen.callbacks in ("default", "gradient_skip", "ema"):
        settings.append("callbacks=none")
    if chosen.data.endswith("mnist"):
        kind = "continuous" if chosen.data.startswith("continuous") else "binarised"
        protocol = "threshold" if chosen.protocol == "static" else chosen.protocol
        settings += [f"data={kind}_digits", f"protocol={protocol}", "data.val_size=1400"]
    if chosen.objective == "vlb":  # large networks: one step, and no validation
        settings += ["model.eval_steps=[]", "data.val_size=0", "+trainer.limit_train_batches=1"]
        settings += ["denoiser.channels=[8,8]", "denoiser.blocks=1"] if chosen.model == "vdm" else []
    return settings


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_trains_for_an_epoch(tmp_path: Path, experiment: str):
    settings = [f"experiment={experiment}", *brief(experiment), f"hydra.run.dir={tmp_path}/run"]
    done = call("train.py", *settings)
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "summary.json").exists()
