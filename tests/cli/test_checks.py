"""The checker of configs, with calls whose parameters are known."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from pydantic import PositiveInt

from latentlab.cli.checks import (
    check_call,
    check_config,
    check_types,
    check_value,
)
from latentlab.cli.used import check_used
from latentlab.errors import UserError, did_you_mean
from latentlab.run.trust import locate


class Layer:
    def __init__(
        self, width: PositiveInt, rate: float = 0.1, name: str | None = None, train: bool = True
    ) -> None:
        """Arguments of every plain kind."""


class Network:
    def __init__(
        self, layers: Sequence[Any], sizes: tuple[int, int] = (1, 2), make: Callable[..., Any] = Layer
    ) -> None:
        """Arguments that hold others."""


def anything(unannotated, *args, **kwargs):
    """Says nothing about its arguments."""


def vague(value: "NotDefinedAnywhere", other: PositiveInt = 1) -> None:  # noqa: F821
    """An annotation that cannot be looked up."""


def node(part: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{part}", **arguments}


def complaint(raw: Any, resolved: Any = None) -> str:
    with pytest.raises(UserError) as caught:
        check_config(raw, raw if resolved is None else resolved)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 3},
        {"width": 3, "rate": 1, "name": None, "train": False},
        {"width": 3, "rate": 1e-3, "name": "x", "_partial_": True, "_convert_": "all"},
        {"_partial_": True},
    ],
)
def test_matching_arguments_pass(arguments):
    check_config({"layer": node("Layer", **arguments)}, {"layer": node("Layer", **arguments)})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 0}, "layer.width=0: input should be greater than 0"),
        ({"width": "abc"}, "layer.width=abc: input should be a valid integer"),
        ({"width": 1.5}, "layer.width=1.5: input should be a valid integer"),
        ({"width": None}, "layer.width=null: input should be a valid integer"),
        ({"width": "3"}, "layer.width='3': this is text, where a whole number is needed"),
        ({"width": 2.0}, "layer.width=2.0: this is a number, where a whole number is needed"),
        ({"width": True}, "layer.width=True: this is true or false, where a whole number is needed"),
        ({"rate": "0.5"}, "layer.rate='0.5': this is text, where a number is needed"),
        ({"rate": [1]}, "layer.rate=[1]: input should be a valid number"),
        ({"name": 3}, "layer.name=3: input should be a valid string"),
        ({"train": "yes"}, "layer.train='yes': this is text, where true or false is needed"),
        (
            {"widht": 3},
            "layer.widht: Layer takes no such argument; did you mean width? (it takes width, rate, name, train)",
        ),
    ],
)
def test_the_argument_that_does_not_fit_is_named(arguments, words):
    assert complaint({"layer": node("Layer", **arguments)}).startswith(words)


def test_calls_inside_calls_and_lists_are_checked_under_their_path():
    inner = node("Layer", width=0, _partial_=True)
    assert complaint({"net": node("Network", layers=[], make=inner)}).startswith("net.make.width=0")
    assert complaint({"net": node("Network", layers=[node("Layer", width=2), inner])}).startswith(
        "net.layers[1].width=0"
    )
    assert complaint({"net": node("Network", layers=[], sizes=[1, "2"])}).startswith("net.sizes=[1, '2']")
    assert complaint({"net": node("Network", layers=[], sizes=[1])}).startswith("net.sizes=[1]")
    check_config(*[{"net": node("Network", layers=[node("Layer", width=2)], sizes=[1, 2])}] * 2)


def test_an_interpolated_node_is_reported_where_it_stands():
    layer = node("Layer", width=0)
    raw = {"net": node("Network", layers=["${layer}"], make="${layer}"), "layer": layer}
    resolved = {"net": node("Network", layers=[layer], make=layer), "layer": layer}
    assert complaint(raw, resolved).startswith("layer.width=0")


def test_an_interpolated_value_is_reported_where_it_stands():
    raw = {"layer": node("Layer", width="${settings.width}"), "settings": {"width": 0}}
    assert complaint(raw, {**raw, "layer": node("Layer", width=0)}).startswith("settings.width=0")
    # A text with an interpolation in it has no other place.
    raw = {"layer": node("Layer", width="${a}${b}")}
    assert complaint(raw, {"layer": node("Layer", width="x")}).startswith("layer.width=x")


def test_types_that_cannot_be_checked_pass():
    check_call(node("anything", unannotated=object(), extra=3), "f")
    check_call(node("vague", value=3, other=2), "f")
    check_value(object(), Any, "x")
    check_config(
        {"plain": {"a": 1}, "none": None, "off": {"_target_": None}},
        {"plain": {"a": 1}, "none": None, "off": {"_target_": None}},
    )


@pytest.mark.parametrize("target", ["torch.optim.Adm", "nowhere.Adam", "Adam", ""])
def test_a_target_that_does_not_exist(target):
    with pytest.raises(UserError, match="there is no such class"):
        locate(target, "optimizer")


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adamax", "SGD"])
def test_the_annotations_of_torch_are_good_for_something(name):
    check_config(*[{"o": {"_target_": f"torch.optim.{name}", "lr": 1e-3, "_partial_": True}}] * 2)
    assert complaint({"o": {"_target_": f"torch.optim.{name}", "lr": "abc"}}).startswith("o.lr=abc")
    assert "did you mean lr?" in complaint({"o": {"_target_": f"torch.optim.{name}", "lrr": 1}})


def test_values_at_dotted_keys():
    hints = {"a.b": PositiveInt, "c": Literal["x", "y"], "a.left.out": int}
    check_types({"a": {"b": 1}, "c": "x"}, hints)
    with pytest.raises(UserError, match=r"a\.b=0: "):
        check_types({"a": {"b": 0}, "c": "x"}, hints)
    with pytest.raises(UserError, match="c=z: input should be 'x' or 'y'"):
        check_types({"a": {}, "c": "z"}, hints)


def test_suggestions():
    assert did_you_mean("batch_sice", ["batch_size", "seed"]) == "; did you mean batch_size?"
    assert did_you_mean("xyz", ["batch_size", "seed"]) == ""


RAW = {
    "model": {"_target_": "M", "prior": "${prior}", "network": {"layer": "${encoder}"}},
    "module": {"_target_": "L", "model": "${model}"},
    "prior": {"_target_": "P", "samples": "${objective.samples}"},
    "encoder": {"_target_": "E"},
    "decoder": {"_target_": "D", "twin": "${encoder}"},
    "objective": {"_target_": "O", "samples": 1},
    "chain": {"inference": {"_target_": "I"}, "transitions": {"_target_": "S"}},
    "trainer": {"_target_": "T"},
    "names": {"prior": "${hydra:runtime.choices.decoder}"},
    "seed": 0,
}


@pytest.mark.parametrize(
    "override",
    [
        "prior=mog",
        "encoder.hidden=[3]",
        "trainer.x=1",
        "seed=3",
        "+names.x=1",
        "~prior.y",
        "hydra.run.dir=x",
        "+new=1",
    ],
)
def test_a_group_that_takes_part_may_be_named(override):
    check_used(RAW, [override], "m")


@pytest.mark.parametrize(
    "override",
    ["decoder=cnn", "decoder.hidden=[3]", "+decoder.x=1", "~decoder.y", "chain=x", "chain.inference.y=1"],
)
def test_a_group_that_changes_nothing_is_refused(override):
    with pytest.raises(UserError) as caught:
        check_used(RAW, ["seed=1", override], "m")
    group = "chain" if override.startswith("chain") else "decoder"
    assert str(caught.value).startswith(f"{override}: model=m has no {group}")
