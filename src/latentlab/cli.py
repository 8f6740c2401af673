"""The edge of the command line: a user's mistake ends in one line and an exit status that is not 0."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from latentlab.checks import did_you_mean
from latentlab.errors import UserError

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake into one line on standard error and exit status 1; `debug=...` shows the traceback."""
    try:
        yield
    except _mistakes() as error:
        debugs = any(argument.startswith("debug=") for argument in sys.argv[1:])
        if debugs and not isinstance(error, MissingConfigException):
            raise
        sys.exit(f"error: {explain(error)}")


def run(main: Callable[[], None], config_name: str) -> None:
    """Run a `hydra.main` function; mistakes that Hydra finds itself are explained too.

    SIGTERM ends the run as an exception would, so that it is closed as failed, with exit status 143.

    Args:
        main: the decorated function.
        config_name: the primary config, whose keys are suggested for a mistyped one.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, so that `explain` sees the error
    explain.config_name = config_name  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, _terminate)
    with one_line_errors():
        try:
            main()
        except ValueError as error:
            if "Config group override" not in str(error):
                raise
            raise UserError(_unknown_option()) from error


def build(node: Any, **arguments: Any) -> Any:
    """Build what a config describes, with further arguments.

    Its lists and mappings become Python's own, for what OmegaConf makes of them must not end up in a checkpoint.
    """
    return instantiate(node, _convert_="all", **arguments)


def build_each(nodes: Any) -> list[Any]:
    """Build every entry of a group; one without a class, which tunes an entry that is left out, is passed over."""
    return [build(node) for node in nodes.values() if node and "_target_" in node]


def _terminate(signum: int, frame: Any) -> None:
    signal.signal(signum, signal.SIG_IGN)  # what follows is not cut short by another one
    sys.exit(128 + signum)


def _mistakes() -> tuple[type[BaseException], ...]:
    # Lightning's own complaints, where it is loaded: importing it takes seconds.
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    return (*MISTAKES, *([lightning.MisconfigurationException] if lightning else []))


def explain(error: BaseException) -> str:
    """One line that names what is wrong and the way out."""
    for kind, words in EXPLANATIONS.items():
        if isinstance(error, kind):
            return " ".join(words(error).split())
    return " ".join(str(error).split())


def _missing_option(error: Any) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = error.options or []
    return (
        f"{group}={option}: no such option{did_you_mean(option, options)} ({group} has {', '.join(options)})"
    )


def _unknown_option() -> str:
    # Hydra stumbles over model=3 or model=null, which are no words.
    for argument in sys.argv[1:]:
        group, _, option = argument.partition("=")
        options = sorted(path.stem for path in (_folder() / group).glob("*.yaml"))
        if group and options and option not in options:
            return f"{argument}: no such option ({group} has {', '.join(options)})"
    return "a group takes the name of one of its options (--help lists them)"


def _composition(error: Any) -> str:
    found = re.search(r"Could not override '([^'@]+)", str(error))
    if found is None:
        return str(error)
    key = found.group(1)
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
        return f"{where}: {_NO_GPU}"
    return f"{where}: {cause} (debug=default shows the traceback)"


def _override(error: Any) -> str:
    return f"'{error.override}' is not of the form key=value ({str(error).splitlines()[0]})"


def _missing_value(error: Any) -> str:
    return f"{error.full_key} is needed: give it as {error.full_key}=..."


def _interpolation(error: Any) -> str:
    [key] = re.findall(r"key '([^']+)' not found", str(error)) or ["another key"]
    return f"{error.full_key} is taken from {key}, which this config lacks: the chosen options do not go together"


def _os_error(error: Any) -> str:
    if error.filename is None:
        return str(error)
    key = "output_dir" if explain.config_name == "evaluate" else "hydra.run.dir"  # type: ignore[attr-defined]
    return f"{error.filename}: {error.strerror} (choose another place with {key}=DIR or data.root=DIR)"


_NO_GPU = (
    "no GPU that this build of torch can use: trainer=cpu trains without one "
    "(python -c 'import torch; print(torch.version.cuda)' says None for a CPU build)"
)
EXPLANATIONS: dict[type[BaseException], Callable[[Any], str]] = {
    UserError: str,
    MissingConfigException: _missing_option,
    OverrideParseException: _override,
    ConfigCompositionException: _composition,
    InstantiationException: _instantiation,
    InterpolationKeyError: _interpolation,
    MissingMandatoryValue: _missing_value,
    OSError: _os_error,
}


def _folder() -> Path:
    return Path(sys.argv[0]).resolve().parent / "conf"


def _known_keys() -> list[str]:
    folder = _folder()
    groups = [path.name for path in folder.iterdir() if path.is_dir()]
    GlobalHydra.instance().clear()
    chosen = [argument for argument in sys.argv[1:] if argument.split("=")[0] in groups]
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(explain.config_name, overrides=chosen)  # type: ignore[attr-defined]
    return groups + list(_dotted(OmegaConf.to_container(config)))


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if not key.startswith("_"):
            yield prefix + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
