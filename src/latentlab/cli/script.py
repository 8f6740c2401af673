"""The script on this command line, its config folders and its groups."""

import sys
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path

# A call from Python has a config and words of its own, which are not those of the process.
CALLED: ContextVar[tuple[str, list[str]] | None] = ContextVar("CALLED", default=None)


def words() -> list[str]:
    """Return the words of this command line, or of the current call from Python."""
    called = CALLED.get()
    return sys.argv[1:] if called is None else called[1]


def config_name() -> str:
    """Return the name of this script's primary config, "train" or "evaluate"."""
    if called := CALLED.get():
        return called[0]
    # A launcher for clusters runs train.py's jobs from another script.
    return "evaluate" if Path(sys.argv[0]).stem == "evaluate" else "train"


def conf_folder() -> Path:
    """Return the folder `conf` of this project: in the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    folders = package / "conf", package.parent.parent / "conf"
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def user_folders() -> list[Path]:
    """Return the folders of `--config-dir`."""
    typed = words()
    apart = [after for word, after in pairwise(typed) if word in ("--config-dir", "-cd")]
    joined = [word.partition("=")[2] for word in typed if word.startswith(("--config-dir=", "-cd="))]
    return [Path(folder).absolute() for folder in (*apart, *joined)]


def group_options(group: str) -> list[str]:
    """Return the options of a group in alphabetical order, [] if there is no such group."""
    folders = [conf_folder(), *user_folders()] if group else []
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def groups_with(option: str) -> Iterator[str]:
    """Yield the groups of an experiment that have this option."""
    for folder in sorted(conf_folder().iterdir()):
        if (folder / f"{option}.yaml").is_file():
            yield folder.name
