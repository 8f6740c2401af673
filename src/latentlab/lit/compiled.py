"""Compilation of the objective of a training step."""

import logging
import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from latentlab.errors import UserError
from latentlab.lit.base import LitModule
from latentlab.lit.gradient import GradientModule
from latentlab.objectives import Objective

log = logging.getLogger(__name__)

COMPILERS = ("c++", "g++", "clang++")
# Draws by torch's own generator, so that the numbers of a run are those of an uncompiled one up to rounding.
OPTIONS = {"options": {"fallback_random": True}}


def compile_objective(module: LitModule, **options: Any) -> None:
    """Compile the objective of a training step, from x to the bound, with `torch.compile` at the first steps.

    Networks, draws, densities and their gradients become a few kernels. Parameter names and checkpoints stay the same.
    Validation and test are not compiled.

    Args:
        module: the module.
        options: arguments of `torch.compile`, by default OPTIONS.

    Raises:
        UserError: if the module is not trained by gradients, or the machine has no C++ compiler.
    """
    if not isinstance(module, GradientModule):
        raise UserError(
            f"compile=true: {type(module.model).__name__} is not trained by gradients: set compile=false"
        )
    if not options and not any(map(shutil.which, (os.environ.get("CXX", COMPILERS[0]), *COMPILERS))):
        raise UserError(
            "compile=true: torch.compile needs a C++ compiler, and there is none: install one, such as g++, "
            "or set compile=false"
        )
    compiled = torch.compile(module.parts, **(options or OPTIONS))

    def parts(objective: Objective, model: Any, x: Any) -> Mapping[str, Tensor]:
        # A graph for each size of a batch, of which an epoch has two. A graph for any size would be slower. The weight
        # of a warm-up, which changes at every step, becomes an input of the graph.
        for tensor in tree_leaves(x):
            torch._dynamo.mark_static(tensor, 0)
        return compiled(objective, model, x)

    module.parts = parts  # type: ignore[method-assign]
    log.info("compile=true: the first steps take up to some minutes, because they compile the objective")
