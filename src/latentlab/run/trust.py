"""The classes that a config may build when it comes with a checkpoint."""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, get_args, get_type_hints

from latentlab.errors import UserError

TRUSTED = ("latentlab", "torch.nn", "torch.optim", "pytorch_lightning.callbacks", "zuko.flows")
FIGURES = ("latentlab.figures",)


def locate(target: str, where: str) -> Callable[..., Any]:
    """Return the class or function with a dotted name.

    Raises:
        UserError: if it does not exist.
    """
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}._target_={target}: there is no such class ({error})") from error
    return found


def check_trusted(node: Any, where: str = "") -> None:
    """Check that a config names only classes of the TRUSTED packages, and figures of this one.

    Raises:
        UserError: for the first other `_target_`.
    """
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if target and not _is_trusted(target, where):
            raise UserError(
                f"{where}._target_={target}: not built, because it is not a class of {', '.join(TRUSTED)} "
                "(docs/extending.md shows how to add a class to latentlab)"
            )
        for key, value in node.items():
            check_trusted(value, f"{where}.{key}".lstrip("."))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            check_trusted(value, f"{where}[{index}]")


def _is_trusted(target: str, where: str) -> bool:
    # The name is checked before anything is imported. The place of definition is checked after it: what a trusted
    # module imports is not trusted.
    if not _within(target, TRUSTED):
        return False
    found = locate(target, where)
    return _within(found.__module__, TRUSTED) if inspect.isclass(found) else _is_figure(found)


def _is_figure(found: Any) -> bool:
    from matplotlib.figure import Figure

    if not (inspect.isfunction(found) and _within(found.__module__, FIGURES)):
        return False
    returned = get_type_hints(found).get("return")
    # A figure, one with tables, or one that not every model has.
    return any(inspect.isclass(kind) and issubclass(kind, Figure) for kind in (returned, *get_args(returned)))


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
