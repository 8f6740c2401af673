"""config.yaml: the resolved config that a run leaves in its directory."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from latentlab.errors import UserError
from latentlab.run import legacy
from latentlab.run.files import write_text
from latentlab.run.plain import read_plain

REMEDY = "restore it from a copy, or train the run again"
# The keys that say where a run finds its data. They do not change its result.
SOURCE = "data.source.path"
PLACES = ("data.root", "data.path", SOURCE)
# The checksum of the data, which a run adds to its config.
CHECKSUM = "data.sha256"


def read_config(path: Path, remedy: str = REMEDY, needs: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Return the config of a run as plain data, under today's names if an older version wrote it.

    The file may come from somebody else, so interpolations in it are refused. The result must never become an
    OmegaConf object, which would resolve them.

    Args:
        path: the file.
        remedy: the remedy if the file is damaged.
        needs: keys that the config must have, with the types of their values.

    Raises:
        UserError: if the file is missing or damaged, or lacks a key.
    """
    try:
        config = read_plain(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: a checkpoint is read together with the config.yaml of its run"
        ) from error
    except (YAMLError, ValueError, OSError) as error:
        raise _damaged(path, " ".join(str(error).split()), remedy) from error
    if not isinstance(config, dict):
        raise _damaged(path, "it is not a mapping of keys to values", remedy)
    if missing := _missing(config, needs or {}):
        raise _damaged(path, f"it lacks {', '.join(missing)}", remedy)
    try:
        return legacy.today(config)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _damaged(path, "a part of it is not a mapping of keys to values", remedy) from error


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a resolved config."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def _missing(config: Mapping[str, Any], needs: Mapping[str, type]) -> list[str]:
    missing = [key for key, kind in needs.items() if not isinstance(config.get(key), kind)]
    if missing or "names" not in needs:
        return missing
    names = config["names"]
    return [f"names.{key}" for key in {"model", "data", *names} if not isinstance(names.get(key), str)]


def _damaged(path: Path, reason: str, remedy: str) -> UserError:
    return UserError(f"{path} is damaged ({reason}): {remedy}")


def leaves(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a config with its dotted key, which begins with `where`."""
    if not isinstance(node, Mapping):
        yield where, list(node) if isinstance(node, tuple) else node
        return
    for key, value in node.items():
        yield from leaves(value, f"{where}.{key}".lstrip("."))


def shown(value: Any) -> Any:
    """Return a value as the command line spells it."""
    return "null" if value is None else value
