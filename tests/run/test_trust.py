"""The targets that a saved config may name, and the builder of saved configs."""

import sys

import pytest
import torch
from parts import CONF

from latentlab.cli.build import build_saved
from latentlab.errors import UserError
from latentlab.run.trust import VARIABLE, Trusted

TRUSTED = Trusted.of([CONF])


@pytest.mark.parametrize(
    "target",
    [
        "latentlab.models.vae.VAE",
        "latentlab.figures.samples",
        "torch.nn.ReLU",
        "torch.nn.Hardsigmoid",
        "torch.optim.Adam",
        "torch.optim.lr_scheduler.StepLR",
        "pytorch_lightning.callbacks.EarlyStopping",
        "pytorch_lightning.callbacks.RichModelSummary",
        "zuko.flows.NSF",
    ],
)
def test_classes_of_the_configs_and_listed_ones_are_trusted(target):
    node = {"a": {"_target_": target}, "list": [{"_target_": target}], "off": {"_target_": None}}
    TRUSTED.check(node, "module")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "latentlab",
        "latentlab.run.results.json.loads",
        "latentlab.cli.report.Console",
        "latentlab.run.results.write_results",
        "latentlab.processes.ranks.run",
        "latentlab.callbacks.figures.Path",
        "latentlab.sweeps.search.study.sqlite",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.callbacks.LambdaCallback",
        "torch.load",
        "torch.hub.load",
        "torch.nn.functional.relu",
        "torch.nn.Module.load_state_dict",
        "torch.optim.lr_scheduler.os.system",
        "hydra.utils.get_method",
        "hydra.utils.instantiate",
        "",
        3,
        ["os.system"],
    ],
)
@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: {"inner": n}, lambda n: [0, {"x": n}]])
def test_nothing_else_is(target, wrap):
    with pytest.raises(UserError) as caught:
        TRUSTED.check(wrap({"_target_": target, "_partial_": True}), "module")
    line = str(caught.value)
    assert f"_target_={target}" in line and "must be listed" in line
    assert "trust=[" not in line and VARIABLE not in line  # no advice to trust what an attacker names


def test_untrusted_modules_are_not_imported():
    with pytest.raises(UserError):
        TRUSTED.check({"_target_": "turtle.Turtle"}, "module")
    assert "turtle" not in sys.modules


@pytest.mark.parametrize("target", ["pytorch_lightning.Trainer", "latentlab.tracking.wandb.wandb_logger"])
def test_trainers_and_loggers_stand_in_their_own_group_only(target):
    with pytest.raises(UserError, match=target):
        TRUSTED.check({"_target_": target}, "module.model")


@pytest.mark.parametrize("name", ["../../x", "_args_", "_recursive_", "a b", "", "${x}", "__class__"])
def test_names_of_arguments_are_names(name):
    for function in (TRUSTED.check, lambda node, where: build_saved(node, where, TRUSTED)):
        with pytest.raises(UserError, match="not the name of an argument"):
            function({"a": {"_target_": "torch.nn.ReLU", name: 1}}, "module")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of a user, which imports a function from elsewhere."""
    (tmp_path / "mine.py").write_text("from os import system\n\n\nclass Layer: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("mine", None)


def test_a_user_trusts_a_module(mine, monkeypatch):
    node = {"_target_": "mine.Layer"}
    with pytest.raises(UserError, match=rf"trust=\[mine\].*{VARIABLE}=mine"):
        build_saved(node, "module", TRUSTED)
    assert "mine" not in sys.modules
    by_option = Trusted.of([CONF], ["mine"])
    monkeypatch.setenv(VARIABLE, " other, mine ")
    for trusted in (by_option, Trusted.of([CONF])):
        assert type(build_saved(node, "module", trusted)).__name__ == "Layer"
        for target in ("mine.system", "mine.Missing", "mineral.Layer"):
            with pytest.raises(UserError, match=target):
                build_saved({"_target_": target}, "module", trusted)


@pytest.mark.parametrize("name", ["torch", "torch.hub", "os", "builtins", "latentlab", "hydra.utils"])
def test_libraries_are_not_trusted(name, monkeypatch):
    with pytest.raises(UserError, match=f"^{name} cannot be trusted"):
        Trusted.of([CONF], [name])
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(UserError, match=f"^{name} cannot be trusted"):
        Trusted.of([CONF])


@pytest.mark.parametrize("name", ["nowhere", "nowhere.at_all", ".x", ""])
def test_a_trusted_module_exists(name):
    with pytest.raises(UserError, match="there is no module"):
        Trusted.of([CONF], [name])


def test_the_targets_that_need_trust():
    nodes = {"a": {"_target_": "torch.nn.ReLU"}, "b": [{"_target_": "mine.Layer"}, {"_target_": None}]}
    assert list(TRUSTED.unlisted(nodes, "module")) == ["mine.Layer"]


def test_an_object_is_built_from_plain_data():
    layer = {"_target_": "torch.nn.LeakyReLU", "negative_slope": 0.1}
    assert build_saved(layer, "module", TRUSTED, negative_slope=0.5).negative_slope == 0.5
    assert build_saved({"a": [1, layer]}, "module", TRUSTED)["a"][1].negative_slope == 0.1
    later = build_saved({**layer, "_partial_": True, "_convert_": "all"}, "module", TRUSTED)
    assert later().negative_slope == 0.1


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"_target_": "torch.nn.LeakyReLU", "slope": 1}, "module: LeakyReLU cannot be built"),
        ({"a": {"_target_": "torch.nn.ReLU"}}, "module: this is dict, where ReLU is needed"),
        ({"_target_": "torch.nn.Tanh"}, "module: this is Tanh"),
    ],
)
def test_an_object_that_cannot_be_built(node, words):
    with pytest.raises(UserError, match=words):
        build_saved(node, "module", TRUSTED, torch.nn.ReLU)
