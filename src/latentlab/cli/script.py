"""The command of this process, its config folders and its groups."""

import sys
from collections.abc import Iterator
from contextvars import ContextVar
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

# `latentlab NAME` and `python -m latentlab NAME` have these words in sys.argv[0].
PROGRAMS = ("latentlab", "python -m latentlab")

# A call from Python has a config and words of its own, which are not those of the process.
CALLED: ContextVar[tuple[str, list[str]] | None] = ContextVar("CALLED", default=None)


def words() -> list[str]:
    """Return the words of this command line, or of the current call from Python."""
    called = CALLED.get()
    return sys.argv[1:] if called is None else called[1]


def config_name() -> str:
    """Return the name of this command's primary config, "train" or "evaluate"."""
    if called := CALLED.get():
        return called[0]
    # A launcher for clusters runs the jobs of train from another script.
    return "evaluate" if Path(sys.argv[0]).stem.endswith("evaluate") else "train"


def typed(name: str) -> str:
    """Return a command as it is typed here, such as "python train.py" or "latentlab train"."""
    if program := _program():
        return f"{program} {name}"
    return f"python {name}.py" if _script(name).is_file() else f"latentlab {name}"


def new_process(name: str, script: Path | None = None) -> list[str]:
    """Return the words that start a command in a new process, which finds the same modules.

    Args:
        name: "train" or "evaluate".
        script: the script of this process, if it is that command. Without it, the script in the checkout.
    """
    program, script = _program(), script or _script(name)
    if script.is_file() and not program:
        return [sys.executable, str(script)]
    # -P keeps the modules in the working directory away, as the console command does.
    safe = [] if program == PROGRAMS[1] else ["-P"]
    return [sys.executable, *safe, "-m", "latentlab", name]


def _program() -> str:
    program = sys.argv[0].rpartition(" ")[0]
    return program if program in PROGRAMS else ""


def _script(name: str) -> Path:
    return conf_folder().parent / f"{name}.py"


def conf_folder() -> Path:
    """Return the folder `conf` of this project: in the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    folders = package / "conf", package.parent.parent / "conf"
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def user_folders() -> list[Path]:
    """Return the folders of `--config-dir` and of `hydra.searchpath`."""
    given = words()
    apart = [after for word, after in pairwise(given) if word in ("--config-dir", "-cd")]
    joined = [word.partition("=")[2] for word in given if word.startswith(("--config-dir=", "-cd="))]
    searched = [place for word in given for place in _searchpath(word)]
    folders = [*(Path(folder).absolute() for folder in (*apart, *joined)), *map(source_folder, searched)]
    return [folder for folder in folders if folder]


def source_folder(source: str) -> Path | None:
    """Return the folder of a source of Hydra: FOLDER, file://FOLDER or pkg://PACKAGE. None if it is not there."""
    scheme, _, place = source.rpartition("://")
    if scheme in ("", "file"):
        return Path(place).absolute() if Path(place).is_dir() else None
    try:
        spec = find_spec(place.replace("/", ".")) if scheme == "pkg" else None
    except (ImportError, ValueError):
        return None
    found = spec.submodule_search_locations if spec else None
    return Path(next(iter(found))) if found else None


def config_sources() -> list[Any]:
    """Return the sources of configs of this command as Hydra knows them, without Hydra's own."""
    sources = HydraConfig.get().runtime.config_sources
    return [each for each in sources if each.provider not in ("hydra", "schema")]


def config_folders(*providers: str) -> list[Path]:
    """Return the folders of configs of this command, or of some providers of them."""
    chosen = [each for each in config_sources() if not providers or each.provider in providers]
    folders = [source_folder(f"{each.schema}://{each.path}") for each in chosen]
    return [folder for folder in folders if folder]


def _searchpath(word: str) -> list[str]:
    if not word.lstrip("+").startswith("hydra.searchpath="):
        return []
    try:
        places = OverridesParser.create().parse_override(word).value()
    except HydraException:  # reported where the words are checked
        return []
    return [str(place) for place in places] if isinstance(places, list) else []


def group_options(group: str) -> list[str]:
    """Return the options of a group in alphabetical order, [] if there is no such group."""
    folders = [conf_folder(), *user_folders()] if group else []
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def groups_with(option: str) -> Iterator[str]:
    """Yield the groups of an experiment that have this option."""
    for folder in sorted(conf_folder().iterdir()):
        if (folder / f"{option}.yaml").is_file():
            yield folder.name
