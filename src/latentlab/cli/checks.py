"""Checks of a composed config against the signatures of the classes it names, before anything is built.

Each argument of a `_target_` must be a parameter and fit its annotation. A range is an annotation as well:
`latent_dim: PositiveInt`.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from inspect import Parameter
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from latentlab.cli.ranges import of_library
from latentlab.errors import UserError, did_you_mean
from latentlab.run.trust import locate

Config = Mapping[str, Any]


def check_config(raw: Any, resolved: Any, where: str = "") -> None:
    """Check every call in a config.

    A value that is an interpolation in `raw` is checked at the key that it points to.

    Args:
        raw: the config with interpolations.
        resolved: the config without interpolations.
        where: the dotted key of both.

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
    else:
        check_number(resolved, where)


def check_call(node: Config, where: str, raw: Config | None = None) -> None:
    """Check the arguments of one call: `node` with its `_target_`, `raw` the same with interpolations.

    Raises:
        UserError: for the first unknown, missing or ill-typed argument.
    """
    target = locate(node["_target_"], where)
    names, open_ended = _parameters(target)
    hints = _hints(target)
    for key, value in node.items():
        if key.startswith("_") and key.endswith("_"):
            continue
        if key not in names and not open_ended:
            raise UserError(
                f"{where}.{key}: {target.__name__} takes no such argument{did_you_mean(key, names)} "
                f"(it takes {', '.join(names)})"
            )
        if isinstance(value, Mapping) and value.get("_target_"):
            _check_complete(value, f"{where}.{key}")
        if key in hints and not holds_call(value):
            pointed = _pointed_to((raw or {}).get(key))
            check_value(value, hints[key], pointed or f"{where}.{key}", f"{where}.{key}" if pointed else "")


def check_number(value: Any, where: str) -> None:
    """Check that a value is no number that a run cannot hold.

    Raises:
        UserError: for NaN, infinity, or an integer of more than 64 bits.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}={value}: give a finite number")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{where}={value}: give a number below 2^63")


def check_underflow(overrides: Iterable[str]) -> None:
    """Check that no number on the command line is so small that it would be read as zero.

    Raises:
        UserError: for the first such number.
    """
    for override in overrides:
        for number in re.findall(
            r"(?<![\w.])[-+]?[\d.]*[1-9][\d.]*e-\d+(?![\w.])", override.partition("=")[2], re.I
        ):
            if float(number) == 0:
                raise UserError(
                    f"{override}: {number} is too small and would be 0: give 0 or a larger number"
                )


def check_value(value: Any, hint: Any, where: str, use: str = "") -> None:
    """Check one value against an annotation.

    Args:
        value: the value.
        hint: the annotation.
        where: the key of the value.
        use: the key of the argument, if `where` is another key that it points to.

    Raises:
        UserError: if it does not fit.
    """
    allowed = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    try:
        adapter = TypeAdapter(hint, config=allowed)
    except (PydanticUserError, NameError, TypeError):
        return  # pydantic does not understand the annotation
    try:
        validated = adapter.validate_python(value)
    except ValidationError as error:
        shown = "null" if value is None else value
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{where}={shown}{f' ({use})' * bool(use)}: {reason[:1].lower()}{reason[1:]}"
        ) from error
    if not _is_taken_as_is(value, validated):
        raise UserError(f"{where}={value!r}: this is {_kind(value)}, where {_kind(validated)} is needed")


def check_types(config: Config, hints: Mapping[str, Any]) -> None:
    """Check the values at dotted keys of a config against annotations. Missing keys pass.

    Raises:
        UserError: for the first value that does not fit.
    """
    for key, hint in hints.items():
        *path, last = key.split(".")
        node = reduce(lambda inner, part: inner.get(part, {}), path, config)
        if last in node:
            check_value(node[last], hint, key)


def holds_call(value: Any) -> bool:
    """Return True if a part of a config names a class or function to call."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(holds_call, value.values()))
    return isinstance(value, list | tuple) and any(map(holds_call, value))


def _parameters(target: Callable[..., Any]) -> tuple[list[str], bool]:
    """Return the names of a call's keyword arguments, and True if it takes any others as well."""
    parameters = inspect.signature(target).parameters.values()
    names = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return names, any(each.kind is each.VAR_KEYWORD for each in parameters)


def _check_complete(node: Config, where: str) -> None:
    # A function as an argument is called at once, unless it is partial.
    target = locate(node["_target_"], where)
    if node.get("_partial_") or "_args_" in node or not inspect.isfunction(target):
        return
    parameters = inspect.signature(target).parameters
    required = [name for name in _parameters(target)[0] if parameters[name].default is Parameter.empty]
    if missing := [name for name in required if name not in node]:
        raise UserError(
            f"{where}: {target.__name__} lacks {' and '.join(missing)}: "
            "add `_partial_: true` if the run gives them later"
        )


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        own = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        own = {}
    return {**own, **of_library(target)}


def _is_taken_as_is(value: Any, validated: Any) -> bool:
    # The class gets the value itself. Pydantic would convert '3' to a number and 2.0 to an integer.
    if isinstance(value, list | tuple) and isinstance(validated, list | tuple):
        return all(map(_is_taken_as_is, value, validated))
    if isinstance(validated, bool | int):
        return type(value) is type(validated)
    return not isinstance(validated, float) or type(value) in (int, float)


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _pointed_to(value: Any) -> str | None:
    found = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    return found.group(1) if found else None
