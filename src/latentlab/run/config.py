"""The config that a run leaves in its directory: read back, and compared with another, key by key."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from latentlab.errors import UserError

CONFIG = "config.yaml"
# Where a run finds its data, which leaves its result alone.
PLACES = ("data.root", "data.source.path")


def read_yaml(path: Path, way_out: str = "") -> dict[str, Any]:
    """A config as plain values.

    Args:
        path: its file.
        way_out: what to do about a damaged one; "" to say what is wrong with it instead.

    Raises:
        UserError: when it is damaged.
    """
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
    except YAMLError as error:
        raise UserError(f"{path} is damaged: {way_out or error}") from error
    return config


def leaves(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config, each with its dotted key, which begins with `where`."""
    if not isinstance(node, Mapping):
        yield where, list(node) if isinstance(node, tuple) else node
        return
    for key, value in node.items():
        yield from leaves(value, f"{where}.{key}".lstrip("."))


def shown(value: Any) -> Any:
    """A value as the command line has it."""
    return "null" if value is None else value
