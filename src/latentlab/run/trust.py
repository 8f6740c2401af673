"""The classes and functions that a saved config may build.

A saved config comes with a checkpoint, perhaps from somebody else. It may name a class that the project's own
`conf/` names, one of the library classes listed here, or one in a module that the user trusts. Nothing else is even
imported.
"""

import inspect
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from latentlab.errors import UserError

# The names of trusted modules, separated by commas.
VARIABLE = "LATENTLAB_TRUST"
# Classes that users choose without a file in conf/.
LIBRARIES = {
    "torch.nn": "BatchNorm1d BatchNorm2d CELU ELU GELU GroupNorm Hardswish Hardtanh Identity InstanceNorm2d LayerNorm "
    "LeakyReLU LogSigmoid Mish PReLU ReLU ReLU6 SELU SiLU Sigmoid Softplus Softsign Tanh",
    "torch.optim": "ASGD Adadelta Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop SGD",
    "torch.optim.lr_scheduler": "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR "
    "LinearLR MultiStepLR OneCycleLR PolynomialLR StepLR",
    "pytorch_lightning.callbacks": "EarlyStopping GradientAccumulationScheduler LearningRateMonitor "
    "StochasticWeightAveraging Timer",
    "zuko.flows": "BPF GF MAF NAF NCSF NICE NSF RealNVP SOSPF UNAF",
    "latentlab.nn.denoisers": "ShiftedMLPDenoiser",  # in runs of older versions
}
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
        """
        groups: dict[str, set[str]] = defaultdict(set)
        for folder in folders:
            for path in sorted(folder.rglob("*.yaml")):
                group = path.relative_to(folder).parts[0]
                for target in TARGET.findall(path.read_text()) if group != APART else ():
                    groups[target].update({group} & set(PLACED))
        listed = [f"{module}.{name}" for module, names in LIBRARIES.items() for name in names.split()]
        named = os.environ.get(VARIABLE, "").split(",")
        chosen = tuple(name.strip() for name in (*modules, *named) if name.strip())
        return cls({name: frozenset(groups.get(name, ())) for name in (*listed, *groups)}, chosen)

    def find(self, target: Any, where: str) -> Callable[..., Any]:
        """Return the class or function of a `_target_`. Its name is checked before anything is imported.

        Args:
            target: the dotted name.
            where: the dotted key of the config that names it.

        Raises:
            UserError: if it is not trusted, or does not exist.
        """
        groups = self.targets.get(target) if isinstance(target, str) else None
        if groups is not None and (not groups or where.partition(".")[0] in groups):
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


def _refused(target: Any, where: str) -> UserError:
    module, _, _ = str(target).rpartition(".")
    return UserError(
        f"{where}._target_={target}: a saved config may not build this. If you trust the module, name it: "
        f"trust=[{module}] for evaluate.py, or {VARIABLE}={module} for every command"
    )
