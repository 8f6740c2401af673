"""The errors of Hydra, OmegaConf and the system, each explained in one line with its remedy."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, MissingMandatoryValue

from latentlab.errors import UserError, did_you_mean

NO_GPU = (
    "this build of torch finds no GPU: trainer=cpu trains without one "
    "(python -c 'import torch; print(torch.version.cuda)' prints None for a CPU build)"
)


def explain(error: BaseException) -> str:
    """Return one line that names the mistake and the remedy."""
    for kind, words in EXPLANATIONS.items():
        if isinstance(error, kind):
            return " ".join(words(error).split())
    return " ".join(str(error).split())


def unknown_option(arguments: Sequence[str]) -> str:
    """Explain an option such as model=3 or model=null, for which Hydra raises a bare ValueError."""
    for argument in arguments:
        group, _, option = argument.partition("=")
        options = sorted(path.stem for path in (_folder() / group).glob("*.yaml"))
        if group and options and option not in options:
            return f"{argument}: no such option ({group} has {', '.join(options)})"
    return "a group takes the name of one of its options (--help lists them)"


def _missing_option(error: Any) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = error.options or []
    return (
        f"{group}={option}: no such option{did_you_mean(option, options)} ({group} has {', '.join(options)})"
    )


def _composition(error: Any) -> str:
    found = re.search(r"Could not override '([^'@]+)", str(error))
    if found is None:
        return str(error)
    key = found.group(1)
    if (_folder() / key).is_dir() and config_name() == "train":
        return f"{key}: the chosen model has no {key}, so this would change nothing: leave it out"
    known = _known_keys()
    parent = key.rpartition(".")[0]
    extra = f"; +{key}=... passes an argument that the config does not list" if parent in known else ""
    return f"{key}: no such key or group{did_you_mean(key, known)} (--help lists the groups{extra})"


def _instantiation(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    where = str(error).rpartition("full_key: ")[2]
    if "gpu backend" in str(cause):
        return f"{where}: {NO_GPU}"
    return f"{where}: {cause} (debug=traceback shows the traceback)"


def _override(error: Any) -> str:
    reason = str(error).splitlines()[0].partition(" expecting")[0]
    return f"'{error.override}' is not of the form key=value ({reason})"


def _missing_value(error: Any) -> str:
    return f"{error.full_key} is needed: give it as {error.full_key}=..."


def _interpolation(error: Any) -> str:
    [key] = re.findall(r"key '([^']+)' not found", str(error)) or ["another key"]
    where = error.full_key or "the config"
    return (
        f"{where} needs {key}, which is missing: the chosen options do not go together "
        "(--help lists the options of each group)"
    )


def _resolution(error: Any) -> str:
    return str(error.__cause__ if isinstance(error.__cause__, UserError) else error)


def _os_error(error: Any) -> str:
    if error.filename is None:
        return str(error)
    key = "output_dir" if config_name() == "evaluate" else "hydra.run.dir"
    return f"{error.filename}: {error.strerror} (choose another place with {key}=DIR or data.root=DIR)"


EXPLANATIONS: dict[type[BaseException], Callable[[Any], str]] = {
    UserError: str,
    MissingConfigException: _missing_option,
    OverrideParseException: _override,
    ConfigCompositionException: _composition,
    InstantiationException: _instantiation,
    InterpolationKeyError: _interpolation,
    InterpolationResolutionError: _resolution,
    MissingMandatoryValue: _missing_value,
    OSError: _os_error,
}


def _folder() -> Path:
    return Path(sys.argv[0]).resolve().parent / "conf"


def config_name() -> str:
    """Return the name of this script's primary config, "train" or "evaluate"."""
    # A launcher for clusters runs train.py's jobs from another script.
    return "evaluate" if Path(sys.argv[0]).stem == "evaluate" else "train"


def _known_keys() -> list[str]:
    GlobalHydra.instance().clear()
    name = config_name()
    plain = [argument.partition(",")[0] for argument in sys.argv[1:]]  # a sweep's first option
    found = [re.fullmatch(r"([\w/]+)(@[\w.:]*)?=[\w./-]+", word) for word in plain]
    grouped = [word[0] for word in found if word and (_folder() / word[1]).is_dir()]
    chosen = grouped if name == "train" else []  # evaluate.py has no groups of an experiment
    with initialize_config_dir(str(_folder()), version_base="1.3"):
        config = compose(name, chosen, return_hydra_config=True)
    groups = list(config.hydra.runtime.choices)
    tasks = {key: node for key, node in _plain(config).items() if key != "hydra"}
    launcher = _dotted(_plain(config.hydra.launcher), "hydra.launcher.")
    return [*groups, *_dotted(tasks), *launcher]


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config)


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if not key.startswith("_"):
            yield prefix + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
