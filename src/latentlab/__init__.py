"""Experiments with latent-variable models.

From Python: `latentlab.train(["model=vae"])` trains as the command does, `latentlab.load(RUN)` returns a trained model,
`latentlab.compose([...])` the checked config, and `latentlab.evaluate(RUN)` the results of an evaluation.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentlab import late
from latentlab.errors import UserError
from latentlab.processes.threads import limit_spinning

if TYPE_CHECKING:
    from latentlab import figures
    from latentlab.api import Trained, compose, evaluate, load, train

__all__ = ["Trained", "UserError", "compose", "evaluate", "figures", "load", "train"]

# Both come before torch is imported.
limit_spinning()
late.install()


def __getattr__(name: str) -> Any:
    # Torch and Lightning take seconds to import, and most modules of the package do not need them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "figures":
        return import_module("latentlab.figures")
    return getattr(import_module("latentlab.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
