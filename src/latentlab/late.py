"""Lightning and torch without the libraries that they import although a run does not use them.

Lightning needs one class of torchmetrics, whose package imports torchvision, SciPy and Matplotlib, and it names a class
of torch's compiler. `import pytorch_lightning` takes 3 s and 270 MB more with them than without. Stand-ins take the
place of these modules while Lightning is imported. They are removed then, so that every later import finds the real
modules. The first step of an optimiser imports the compiler too, although it does nothing outside compiled code.

A version of a library that needs more is imported as usual. So is a library that is imported before latentlab.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from types import ModuleType
from typing import Any

COMPILER, METRICS = "torch._dynamo", "torchmetrics"
LIGHTNING = ("lightning_fabric", "pytorch_lightning")
# Lightning imports these modules, and calls them only for compiled models, plots and counts of operations.
UNUSED = (COMPILER, "torch.utils.flop_counter", f"{METRICS}.utilities.plot")
KEPT = "__dynamo_disable"  # the attribute in which torch keeps a function that is never compiled
# The names of torchmetrics that Lightning needs, and their modules.
NEEDED = {"Metric": "metric", "MetricCollection": "collections"}


class Late(type):
    """The stand-in of a class or a function, which imports its module when it is called.

    It has no instance before the module is imported.
    """

    home: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if isinstance(sys.modules.get(cls.home), StandIn):
            del sys.modules[cls.home]
        return getattr(import_module(cls.home), cls.__name__)(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return loaded(cls.home) and isinstance(instance, getattr(sys.modules[cls.home], cls.__name__))


class StandIn(ModuleType):
    """A module in which every name is `Late`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Late(name, (), {"home": self.__name__})


def loaded(name: str) -> bool:
    """Return True if the real module of this name is imported."""
    return name in sys.modules and not isinstance(sys.modules[name], StandIn)


class Metrics(ModuleType):
    """The package torchmetrics with the names that Lightning needs, and its real submodules."""

    def __getattr__(self, name: str) -> Any:
        if name not in NEEDED:
            raise AttributeError(name)
        import_module(f"{METRICS}.utilities")  # first, as it and `metric` import each other
        return getattr(import_module(f"{METRICS}.{NEEDED[name]}"), name)


class Finder(MetaPathFinder):
    """Finds the packages that are imported in a context of their own."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in CONTEXTS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = InContext(fullname, spec.loader.path)
        return spec


class InContext(SourceFileLoader):
    """Runs a module in its context, and without it if another version of the module fails there."""

    def exec_module(self, module: ModuleType) -> None:
        before = {*sys.modules}
        try:
            with CONTEXTS[module.__name__](module):
                super().exec_module(module)
        except (ImportError, AttributeError):
            for name in {*sys.modules} - before:
                if name.partition(".")[0] in CONTEXTS:
                    del sys.modules[name]
            super().exec_module(module)


@contextmanager
def _without_unused(module: ModuleType) -> Iterator[None]:
    """Import Lightning with stand-ins. The second of its packages finds those of the first."""
    made: dict[str, ModuleType] = {name: StandIn(name) for name in UNUSED if name not in sys.modules}
    if COMPILER in made:
        made[COMPILER].disable = _disable  # type: ignore[attr-defined]  # decorates functions of Lightning
    if METRICS not in sys.modules and (spec := find_spec(METRICS)) is not None:
        made[METRICS] = _metrics(spec)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, stand_in in made.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def _disable(function: Callable[..., Any], recursive: bool = True, **options: Any) -> Any:
    from torch import _disable_dynamo

    return _disable_dynamo(function, recursive)


def _metrics(spec: ModuleSpec) -> ModuleType:
    from importlib.metadata import version  # late, as it is slow to import

    package: Any = Metrics(METRICS)
    package.__spec__, package.__path__ = spec, spec.submodule_search_locations
    package.__version__, package._logger = version(METRICS), logging.getLogger(METRICS)
    return package


@contextmanager
def _with_submodules(package: ModuleType) -> Iterator[None]:
    """Import torchmetrics when its submodules that Lightning needs are there. They become its attributes."""
    for name, module in list(sys.modules.items()):
        parent, _, child = name.rpartition(".")
        if parent == package.__name__:
            setattr(package, child, module)
    yield


@contextmanager
def _with_eager_functions(module: ModuleType) -> Iterator[None]:
    """Import torch's decorator of functions that are never compiled, so that they work without the compiler.

    Torch asks the compiler for such a function in the first call, and keeps the answer in an attribute. The function
    itself stands there until the compiler is imported.
    """
    yield
    disable = module._disable_dynamo

    @wraps(disable)
    def disabled(function: Any = None, recursive: bool = True) -> Any:
        if function is None:
            return partial(disabled, recursive=recursive)
        inner = disable(function, recursive)

        def eager(*args: Any, **kwargs: Any) -> Any:
            if not loaded(COMPILER):
                return function(*args, **kwargs)
            vars(function).pop(KEPT, None)
            return inner(*args, **kwargs)

        with suppress(AttributeError):  # not every callable has attributes
            setattr(function, KEPT, eager)
        return inner

    module._disable_dynamo = disabled  # type: ignore[attr-defined]


@contextmanager
def _with_eager_steps(module: ModuleType) -> Iterator[None]:
    """Import torch's decorator of the steps of optimisers, so that they leave a compiled graph only if there is one."""
    yield
    decorate = module._use_grad_for_differentiable
    from torch import set_grad_enabled

    @wraps(decorate)
    def decorated(step: Callable[..., Any]) -> Callable[..., Any]:
        compiled = decorate(step)

        @wraps(step)
        def eager(self: Any, *args: Any, **kwargs: Any) -> Any:
            if loaded(COMPILER):
                return compiled(self, *args, **kwargs)
            with set_grad_enabled(self.defaults["differentiable"]):
                return step(self, *args, **kwargs)

        return eager

    module._use_grad_for_differentiable = decorated  # type: ignore[attr-defined]


CONTEXTS: dict[str, Callable[[ModuleType], Any]] = {
    **dict.fromkeys(LIGHTNING, _without_unused),
    METRICS: _with_submodules,
    "torch._compile": _with_eager_functions,
    "torch.optim.optimizer": _with_eager_steps,
}


def install() -> None:
    """Import Lightning without what a run does not use, from now on. It does nothing if Lightning is imported."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
