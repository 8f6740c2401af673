"""Directory names made from overrides."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from latentlab.cli.overrides import quoted
from latentlab.sweeps.jobs.naming import LIMIT, command_name, directory_name

NAMES = {
    ("model=vae", "seed=1"): "model-vae_seed-1",
    ("model=vae,mog_vae", "seed=1,2,3"): "model-vae+mog_vae_seed-1+2+3",
    ("optimizer.lr=1e-3", "+x=2"): "+x-2_optimizer.lr-1e-3",
    (): "defaults",
}
ODD = [
    ["encoder.hidden=[8,8]"],
    ["encoder.hidden=[8]", "seed=1"],
    ["encoder.hidden=8"],
    ["ckpt_path=/a/b.ckpt"],
    ["ckpt_path=a/b.ckpt"],
    ["~callbacks.latents"],
    ["+names.title='a b, c'"],
    ["data=x", *(f"group{index}.a_long_name={index}" for index in range(20))],
    ["data=y", *(f"group{index}.a_long_name={index}" for index in range(20))],
    ["names.title=über"],
    ["names.title=.."],
]


@pytest.mark.parametrize(("overrides", "name"), NAMES.items())
def test_plain_overrides_are_names(overrides, name):
    assert directory_name(overrides) == name
    assert directory_name(reversed(overrides)) == name


def test_odd_overrides_have_different_names_without_quotes():
    names = [directory_name(overrides) for overrides in ODD]
    assert len(set(names)) == len(ODD)
    assert names[7].startswith("a_long_name-") and names[7] != names[8]
    for name in names:
        assert len(name) <= LIMIT and "/" not in name and name not in (".", "..")
        path = f"multirun/{name}/checkpoints/best.ckpt"
        assert OverridesParser.create().parse_override(f"ckpt_path={path}").value() == path


def test_hydras_own_options_do_not_name_a_sweep():
    words = [
        "-m",
        "model=vae,ppca",
        "hydra.launcher.n_jobs=2",
        "hydra/launcher=basic",
        "--config-name",
        "x",
        "seed=1",
    ]
    assert command_name(words) == directory_name(["model=vae,ppca", "seed=1"])


@pytest.mark.parametrize("text", ["a/b c", "it's", "a=b,c", "back\\slash", "\\'", "end\\", "[1]", "${x}"[1:]])
def test_quoted_values_are_read_back(text):
    assert OverridesParser.create().parse_override(quoted("key", text)).value() == text
