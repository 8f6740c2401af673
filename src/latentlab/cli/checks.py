"""Checks of a composed configuration against the code it names, before anything is built.

Every `_target_` is looked up, and each argument given to it is compared with the name and the annotation of a
parameter. A range is an annotation too: `latent_dim: PositiveInt`.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from latentlab.errors import UserError, did_you_mean
from latentlab.run.trust import locate

Config = Mapping[str, Any]

# What a run is built from; every other group is a part of these, or of no use to the experiment.
ROOTS = ("module", "data", "trainer", "callbacks", "logger")


def check_config(raw: Any, resolved: Any, where: str = "") -> None:
    """Check every call in a configuration, `raw` with its interpolations and `resolved` without.

    What is an interpolation in `raw` stands elsewhere too, and is reported under its own name.

    Raises:
        UserError: for the first unknown, missing or ill-typed argument.
    """
    if isinstance(resolved, Mapping):
        if resolved.get("_target_"):
            check_call(resolved, where, raw)
        for key, value in resolved.items():
            if not isinstance(raw[key], str):
                check_config(raw[key], value, f"{where}.{key}".lstrip("."))
    elif isinstance(resolved, Sequence) and not isinstance(resolved, str):
        for index, value in enumerate(resolved):
            if not isinstance(raw[index], str):
                check_config(raw[index], value, f"{where}[{index}]")


def check_call(node: Config, where: str, raw: Config | None = None) -> None:
    """Check the arguments of one call, `node` with its `_target_`, `raw` with its interpolations.

    Raises:
        UserError: for the first unknown or ill-typed argument.
    """
    target = locate(node["_target_"], where)
    parameters = inspect.signature(target).parameters
    hints = _hints(target)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in node.items():
        if key.startswith("_") and key.endswith("_"):
            continue
        if key not in parameters and not open_ended:
            known = [name for name in parameters if name not in ("args", "kwargs")]
            raise UserError(
                f"{where}.{key}: {target.__name__} takes no such argument{did_you_mean(key, known)} "
                f"(it takes {', '.join(known)})"
            )
        if key in hints and not _holds_call(value):
            check_value(value, hints[key], _own_name((raw or {}).get(key)) or f"{where}.{key}")


def check_used(raw: Config, overrides: Iterable[str], model: str) -> None:
    """Check that every group that the command line names takes part in the experiment.

    Args:
        raw: the configuration with its interpolations, by which the groups are joined.
        overrides: the arguments of the command line.
        model: the option of the group `model`.

    Raises:
        UserError: for the first that would change nothing.
    """
    used: set[str] = set()
    for root in ROOTS:
        _reach(raw, root, used)
    for override in overrides:
        group = re.split(r"[=.@]", override.lstrip("+~"), maxsplit=1)[0]
        node = raw.get(group)
        if group not in used and isinstance(node, Mapping) and _holds_call(node):
            raise UserError(
                f"{override}: model={model} has no {group}, so that it would change nothing: leave it out"
            )


def _reach(raw: Config, group: str, used: set[str]) -> None:
    if group in raw and group not in used:
        used.add(group)
        for name in re.findall(r"\$\{(\w+)[.}]", str(raw[group])):
            _reach(raw, name, used)


def check_value(value: Any, hint: Any, where: str) -> None:
    """Check one value against an annotation.

    Raises:
        UserError: when it does not fit.
    """
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, NameError, TypeError):
        return  # an annotation of a library that says nothing checkable
    try:
        validated = adapter.validate_python(value)
    except ValidationError as error:
        shown = "null" if value is None else value
        raise UserError(f"{where}={shown}: {error.errors()[0]['msg'].lower()}") from error
    if not _is_taken_as_is(value, validated):
        raise UserError(f"{where}={value!r}: this is {_kind(value)}, where {_kind(validated)} is needed")


def check_types(config: Config, hints: Mapping[str, Any]) -> None:
    """Check values at dotted keys of a configuration against annotations; a key that was left out is no mistake.

    Raises:
        UserError: for the first value that does not fit.
    """
    for key, hint in hints.items():
        *path, last = key.split(".")
        node = reduce(lambda inner, part: inner.get(part, {}), path, config)
        if last in node:
            check_value(node[last], hint, key)


def _is_taken_as_is(value: Any, validated: Any) -> bool:
    # The class gets the value itself, not what pydantic would make of it: '3' is no number, nor 2.0 an integer.
    if isinstance(value, list | tuple) and isinstance(validated, list | tuple):
        return all(map(_is_taken_as_is, value, validated))
    if isinstance(validated, bool | int):
        return type(value) is type(validated)
    return not isinstance(validated, float) or isinstance(value, int | float)


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _own_name(value: Any) -> str | None:
    found = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    return found.group(1) if found else None


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _holds_call(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_holds_call, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_call, value))
