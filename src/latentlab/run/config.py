"""config.yaml: the resolved config that a run leaves in its directory."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from latentlab.errors import UserError
from latentlab.run import legacy

# The keys that say where a run finds its data. They do not change its result.
PLACES = ("data.root", "data.source.path")


def read_config(path: Path, remedy: str = "") -> dict[str, Any]:
    """Return the config of a run as plain values, under today's names if an older version wrote it.

    Args:
        path: the file.
        remedy: the remedy if the file is damaged. By default the message describes the damage.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: a checkpoint is read together with the config.yaml of its run"
        ) from error
    except (YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged: {remedy or ' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: {remedy or 'it holds no mapping of keys to values'}")
    return legacy.today(config)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a resolved config."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))))


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
