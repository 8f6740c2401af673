"""Compilation of a model's networks."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

from torch import nn

from latentlab.errors import UserError

COMPILERS = ("c++", "g++", "clang++")


def compile_networks(model: nn.Module, **options: Any) -> None:
    """Compile the networks of a model with `torch.compile` at their first calls.

    In place, so that parameter names and checkpoints stay the same. Distributions are not compiled.

    Args:
        model: the model.
        options: arguments of `torch.compile`.

    Raises:
        UserError: if the model has no networks, or the machine has no C++ compiler.
    """
    found = list(networks(model))
    if not found:
        raise UserError(f"compile=true: {type(model).__name__} has no networks to compile: set compile=false")
    if not options and not any(map(shutil.which, (os.environ.get("CXX", COMPILERS[0]), *COMPILERS))):
        raise UserError(
            "compile=true: torch.compile needs a C++ compiler, and there is none: install one, such as g++, "
            "or set compile=false"
        )
    for network in found:
        network.compile(**options)


def networks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost submodules of a model that are networks of this package."""
    for part in model.children():
        if type(part).__module__.startswith(f"{__package__}."):
            yield part
        else:
            yield from networks(part)
