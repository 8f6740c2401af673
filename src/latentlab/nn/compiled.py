"""Networks compiled in place."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

from torch import nn

from latentlab.errors import UserError

COMPILERS = ("c++", "g++", "clang++")


def compile_networks(model: nn.Module, **options: Any) -> None:
    """Have the networks of a model compiled by `torch.compile` at their first calls.

    In place: the names of the parameters stay, and so does what a checkpoint holds. What is between the networks, such
    as distributions, runs as it is.

    Args:
        model: the model.
        options: for `torch.compile`.

    Raises:
        UserError: when the model has no networks, or there is no compiler for what torch generates.
    """
    found = list(networks(model))
    if not found:
        raise UserError(
            f"compile=true: {type(model).__name__} has no networks to compile: leave compile=false"
        )
    if not options and not any(map(shutil.which, (os.environ.get("CXX", COMPILERS[0]), *COMPILERS))):
        raise UserError(
            "compile=true: torch compiles networks with a C++ compiler, and there is none: install one, such as g++, "
            "or leave compile=false"
        )
    for network in found:
        network.compile(**options)


def networks(model: nn.Module) -> Iterator[nn.Module]:
    """The parts of a model that are networks of this package, as wholes."""
    for part in model.children():
        if type(part).__module__.startswith(f"{__package__}."):
            yield part
        else:
            yield from networks(part)
