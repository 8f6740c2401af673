"""The keys in the JSON of a dashboard, by the part of a run that holds them."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

Keys = dict[str, set[str]]


def panel_keys(spec: Any) -> Keys:
    """Return the keys of `history` (as "KEY over AXIS"), `config`, `summary`, `media` and `tables`."""
    found: Keys = defaultdict(set)
    for panel in panels(spec):
        for kind, key in READERS[panel["viewType"]](panel["config"]):
            found[kind].add(key)
    return dict(found)


def panels(node: Any) -> Iterator[Any]:
    """Yield every panel of a workspace or a report."""
    if isinstance(node, dict):
        if "viewType" in node:
            yield node
        for value in node.values():
            yield from panels(value)
    elif isinstance(node, list):
        for value in node:
            yield from panels(value)


def _line(config: Any) -> Iterator[tuple[str, str]]:
    patterns = [re.escape(name) for name in config["metrics"]]
    patterns += [config["metricRegex"]] if "metricRegex" in config else []
    yield from (("history", f"{pattern} over {config['xAxis']}") for pattern in patterns)
    yield from _grouped(config)


def _bar(config: Any) -> Iterator[tuple[str, str]]:
    yield from (("summary", name) for name in config["metrics"])
    yield from _grouped(config)


def _grouped(config: Any) -> Iterator[tuple[str, str]]:
    yield "config", without_envelope(config["groupBy"])


def _scatter(config: Any) -> Iterator[tuple[str, str]]:
    yield from (accessed(config[axis]) for axis in ("xAxis", "yAxis"))


def _parallel(config: Any) -> Iterator[tuple[str, str]]:
    yield from (accessed(column["accessor"]) for column in config["columns"])


def accessed(accessor: str) -> tuple[str, str]:
    """Return kind and key of an accessor, such as `config:a.value.b` or `summary:a`."""
    kind, _, key = accessor.partition(":")
    return kind, without_envelope(key) if kind == "config" else key


def without_envelope(key: str) -> str:
    """Return the logged key of a config: W&B puts `value` after its first part."""
    first, envelope, *rest = key.split(".")
    assert envelope == "value", key
    return ".".join([first, *rest])


READERS = {
    "Run History Line Plot": _line,
    "Bar Chart": _bar,
    "Scatter Plot": _scatter,
    "Parallel Coordinates Plot": _parallel,
    "Parameter Importance": lambda config: [("summary", config["targetKey"])],
    "Media Browser": lambda config: [("media", key) for key in config["mediaKeys"]],
    "Weave": lambda config: [("tables", key) for key in re.findall(r"'(tables/\w+)'", str(config))],
}
