"""The settings that are paths. `~` is expanded in each, and a relative path starts where the command was started."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentlab.cli.overrides import quoted

PATHS = (
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.sweeper.storage.path"),
    *("ckpt_path", "resume", "run", "output_dir"),
    *("data.root", "data.source.path", "model.pretrained"),
)
_HOME = re.compile(rf"(\+*(?:{'|'.join(map(re.escape, PATHS))}))=(['\"]?)(~.*)\2", re.DOTALL)


def with_home(word: str) -> str:
    """Return an override with `~` expanded if its value is a path, and other words unchanged."""
    found = _HOME.fullmatch(word)
    return quoted(found[1], Path(found[3]).expanduser()) if found else word


def absolute(config: Mapping[str, Any], start: str | Path, keys: tuple[str, ...] = PATHS) -> dict[str, Any]:
    """Return a copy of a resolved config with absolute paths.

    `hydra.job.chdir=true` runs a job in its run directory, where a relative path would mean another place.

    Args:
        config: the config.
        start: the directory in which the command was started.
        keys: the dotted keys of the paths.
    """
    return {key: _moved(key, value, Path(start), keys) for key, value in config.items()}


def _moved(where: str, value: Any, start: Path, keys: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(f"{where}.{key}", each, start, keys) for key, each in value.items()}
    is_path = isinstance(value, str) and value and where in keys
    return str(start / Path(value).expanduser()) if is_path else value
