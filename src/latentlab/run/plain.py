"""YAML from somebody else as plain data, in bounded time and memory.

A file holds mappings with text keys, lists, numbers, text, true, false and null. Aliases, tags and interpolations are
refused, so that a small file is small in memory and nothing in it is ever executed.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml  # type: ignore[import-untyped]

LARGEST_FILE = 1_000_000  # bytes. The longest config of this project has 10,000.
MOST_VALUES = 50_000
DEEPEST = 40
LONGEST_NUMBER = 100  # characters
KINDS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "null")}
# OmegaConf takes 1e-3 for a number, unlike YAML 1.1.
FLOAT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*[eE][-+]?[0-9]+$")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the parser in C is ten times as fast


class Reader(Base):
    """A YAML parser that builds plain values from events, and counts them."""

    # No dates, no merges.
    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in rules if tag in KINDS]
        for first, rules in Base.yaml_implicit_resolvers.items()
    }

    def document(self) -> Any:
        """Return the only document of the file, or None if there is none."""
        self.values = 0
        self.get_event()  # the start of the stream
        if self.check_event(yaml.StreamEndEvent):
            return None
        self.get_event()  # the start of the document
        found = self._value("the file", 0)
        self.get_event()
        if not self.check_event(yaml.StreamEndEvent):
            raise ValueError("it holds several documents")
        return found

    def _value(self, where: str, depth: int) -> Any:
        event = self.get_event()
        self.values += 1
        if self.values > MOST_VALUES or depth > DEEPEST:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values, or {DEEPEST} levels of them")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise ValueError(f"{where}: aliases are not read, write the value again")
        if event.tag is not None:
            raise ValueError(f"{where}: tags such as {event.tag} are not read")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, where)
        if isinstance(event, yaml.SequenceStartEvent):
            return list(self._items(where, depth + 1))
        return self._mapping(where, depth + 1)

    def _items(self, where: str, depth: int) -> Iterator[Any]:
        while not self.check_event(yaml.SequenceEndEvent):
            yield self._value(where, depth)
        self.get_event()

    def _mapping(self, where: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.check_event(yaml.MappingEndEvent):
            key = self._value(where, depth)
            if not isinstance(key, str) or key in found:
                raise ValueError(
                    f"{where}: the key {key!r} is {'double' if isinstance(key, str) else 'no text'}"
                )
            found[key] = self._value(f"{where}.{key}".removeprefix("the file."), depth)
        self.get_event()
        return found

    def _scalar(self, event: Any, where: str) -> Any:
        if "${" in event.value:
            raise ValueError(f"{where}={event.value}: interpolations are not read, write the value itself")
        if CONTROL.search(event.value):
            raise ValueError(f"{where}: control characters are not read")
        if len(event.value) > LONGEST_NUMBER:
            return event.value
        tag = self.resolve(yaml.ScalarNode, event.value, event.implicit)
        return self.construct_object(yaml.ScalarNode(tag, event.value)) if tag in KINDS else event.value


Reader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))


def read_plain(path: Path) -> Any:
    """Return the contents of a YAML file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not plain data, or too large.
        yaml.YAMLError: if it is not YAML.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes")
    reader = Reader(content.decode())
    try:
        return reader.document()
    finally:
        reader.dispose()
