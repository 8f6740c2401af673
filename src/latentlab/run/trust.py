"""The classes and functions that a saved config may build.

A saved config comes with a checkpoint, perhaps from somebody else. It may name a class that the project's own
`conf/` names, one of the library classes listed here, or one in a module that the user trusts. Nothing else is even
imported.
"""

import inspect
import os
import re
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latentlab.errors import UserError

# The names of trusted modules, separated by commas.
VARIABLE = "LATENTLAB_TRUST"
# Classes that users choose without a file in conf/.
LIBRARIES = {
    "torch.nn": "BatchNorm1d BatchNorm2d CELU ELU GELU GLU GroupNorm Hardshrink Hardsigmoid Hardswish Hardtanh "
    "Identity InstanceNorm2d LayerNorm LeakyReLU LogSigmoid LogSoftmax Mish PReLU RReLU ReLU ReLU6 SELU SiLU Sigmoid "
    "Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold",
    "torch.optim": "ASGD Adadelta Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop SGD",
    "torch.optim.lr_scheduler": "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR "
    "LinearLR MultiStepLR OneCycleLR PolynomialLR StepLR",
    "pytorch_lightning.callbacks": "DeviceStatsMonitor EarlyStopping GradientAccumulationScheduler LearningRateMonitor "
    "ModelSummary RichModelSummary RichProgressBar StochasticWeightAveraging TQDMProgressBar ThroughputMonitor Timer",
    "zuko.flows": "BPF GF MAF NAF NCSF NICE NSF RealNVP SOSPF UNAF",
    "latentlab.figures": "latents_umap",  # needs an optional library
    "latentlab.nn.denoisers": "ShiftedMLPDenoiser",  # in runs of older versions
}
# No module of these may be trusted, because they hold functions that run commands and load files.
DEPENDENCIES = re.compile(
    "torch|torchvision|pytorch_lightning|lightning_fabric|torchmetrics|hydra|omegaconf|numpy|scipy|sklearn|joblib|"
    "matplotlib|PIL|pydantic|rich|wandb|zuko|optuna|sqlalchemy|yaml|filelock|platformdirs|cloudpickle|fsspec|"
    "tensorboard|setuptools|pip|pkg_resources"
)
# The targets that conf/ names in these groups may stand in the same group of a saved config only.
PLACED = ("trainer", "logger", "data")
APART = "hydra"  # the group of Hydra's own parts, which a run does not build
TARGET = re.compile(r"""_target_["']?\s*:\s*["']?([\w.]+)""")
# The instructions in a node. `_args_` and `_recursive_` are not needed.
SPECIAL = ("_target_", "_partial_", "_convert_")
NAME = re.compile(r"[A-Za-z][\w-]*")


@dataclass(frozen=True)
class Trusted:
    """The targets that a saved config may name.

    Attributes:
        targets: the dotted names, each with the groups that it may stand in. No groups mean anywhere.
        modules: the modules and packages that the user trusts, with all their classes and functions.
    """

    targets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    modules: tuple[str, ...] = ()

    @classmethod
    def of(cls, folders: Iterable[Path], modules: Iterable[str] = ()) -> "Trusted":
        """Return the targets of some folders of configs and of the libraries, and what the user trusts.

        Args:
            folders: the folders, such as conf/.
            modules: more trusted modules than those of the environment variable LATENTLAB_TRUST.

        Raises:
            UserError: for a module that may not be trusted, or is missing.
        """
        modules = list(modules)
        for name in modules:
            _check_exists(name)
        named = os.environ.get(VARIABLE, "").split(",")
        chosen = tuple(name.strip() for name in (*modules, *named) if name.strip())
        for name in chosen:
            _check_own(name)
        return replace(cls.listed(folders), modules=chosen)

    @classmethod
    def listed(cls, folders: Iterable[Path]) -> "Trusted":
        """Return the targets of some folders of configs and of the libraries, without modules of the user."""
        groups: dict[str, set[str]] = defaultdict(set)
        for folder in folders:
            for path in sorted(folder.rglob("*.yaml")):
                group = path.relative_to(folder).parts[0]
                for target in TARGET.findall(path.read_text()) if group != APART else ():
                    groups[target].update({group} & set(PLACED))
        listed = [f"{module}.{name}" for module, names in LIBRARIES.items() for name in names.split()]
        return cls({name: frozenset(groups.get(name, ())) for name in (*listed, *groups)})

    def find(self, target: Any, where: str) -> Callable[..., Any]:
        """Return the class or function of a `_target_`. Its name is checked before anything is imported.

        Args:
            target: the dotted name.
            where: the dotted key of the config that names it.

        Raises:
            UserError: if it is not trusted, or does not exist.
        """
        if self._is_listed(target, where):
            return locate(target, where)
        if isinstance(target, str) and self._is_chosen(target):
            found = locate(target, where)
            # What a trusted module imports from elsewhere is not trusted.
            if self._is_chosen(f"{found.__module__}.{found.__qualname__}"):
                return found
        raise _refused(target, where)

    def check(self, node: Any, where: str) -> None:
        """Check all targets and argument names in a part of a saved config.

        Raises:
            UserError: for the first target that is not trusted, or name that is not one of an argument.
        """
        if isinstance(node, Mapping):
            check_names(node, where)
            if node.get("_target_") is not None:
                self.find(node["_target_"], where)
            for key, value in node.items():
                self.check(value, f"{where}.{key}")
        elif isinstance(node, list | tuple):
            for index, value in enumerate(node):
                self.check(value, f"{where}[{index}]")

    def unlisted(self, node: Any, where: str) -> Iterator[str]:
        """Yield the targets in a part of a config that are trusted only if the user trusts their modules."""
        if isinstance(node, Mapping):
            target = node.get("_target_")
            if target is not None and not self._is_listed(target, where):
                yield target
            for key, value in node.items():
                yield from self.unlisted(value, f"{where}.{key}")
        elif isinstance(node, list | tuple):
            for value in node:
                yield from self.unlisted(value, where)

    def _is_listed(self, target: Any, where: str) -> bool:
        groups = self.targets.get(target) if isinstance(target, str) else None
        return groups is not None and (not groups or where.partition(".")[0] in groups)

    def _is_chosen(self, name: str) -> bool:
        return any(name == module or name.startswith(f"{module}.") for module in self.modules)


def locate(target: str, where: str) -> Callable[..., Any]:
    """Return the class or function with a dotted name.

    Raises:
        UserError: if it does not exist.
    """
    module_name, _, name = target.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{where}._target_={target}: there is no such class ({error}; PYTHONPATH lists the folders of modules)"
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}._target_={target}: there is no such class ({error})") from error
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        raise UserError(f"{where}._target_={target}: this is no class and no function")
    return found


def check_names(node: Mapping[str, Any], where: str) -> None:
    """Check the names of arguments in a saved config. A name may become a file name, such as that of a figure.

    Raises:
        UserError: for the first that is none.
    """
    for key in node:
        if key not in SPECIAL and not NAME.fullmatch(key):
            raise UserError(
                f"{where}.{key}: this is not the name of an argument in a saved config: remove it"
            )


def is_library(name: str) -> bool:
    """Return True for a name in the standard library, in an installed package, or in this project.

    An installed package that requires latentlab is no library, but code of the user. Nothing is imported.
    """
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "latentlab" or DEPENDENCIES.fullmatch(top):
        return True
    if _extends(top):
        return False
    installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
    return any(folder in path.parents for path in _files_of(top) for folder in installed)


def _extends(top: str) -> bool:
    required = [each for name in packages_distributions().get(top, ()) for each in requires(name) or ()]
    return any(re.match(r"latentlab\b", each, re.IGNORECASE) for each in required)


def _files_of(top: str) -> list[Path]:
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return []
    files = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return [Path(each) for each in files if each]


def _check_exists(name: str) -> None:
    top = name.strip().partition(".")[0]
    if not _files_of(top):
        raise UserError(
            f"trust=[{name}]: there is no module {top}: install it, or give the name by which Python imports it "
            "(PYTHONPATH lists the folders of modules)"
        )


def _check_own(name: str) -> None:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or DEPENDENCIES.fullmatch(top) or name == "latentlab":
        raise UserError(
            f"{name} cannot be trusted with trust= or {VARIABLE}: a library holds functions that run any command. "
            "Name modules of your own"
        )


def _refused(target: Any, where: str) -> UserError:
    module, _, _ = str(target).rpartition(".")
    if not isinstance(target, str) or not module or is_library(module):
        reason = "a class of a library must be listed in latentlab/run/trust.py (SECURITY.md has more)"
    else:
        top = module.partition(".")[0]
        reason = f"if you trust {top}, name it: trust=[{top}], or {VARIABLE}={top} for every command"
    return UserError(f"{where}._target_={target}: a saved config may not build this: {reason}")
