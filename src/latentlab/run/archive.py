"""The file of a checkpoint, checked before torch reads it.

torch executes nothing when it loads a file with `weights_only=True`. But it takes as much memory as the file asks for:
members may be compressed, tensors larger than their storage, and lists may hold one another many times. This module
reads the outline of a file, its structure without its tensors, in memory of the size of the file.
"""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

LARGEST_OUTLINE = 10_000_000  # bytes. That of a model with 100 layers has 100,000.
MOST_VALUES = 1_000_000
DEEPEST = 50
MEMBER = re.compile(
    r"([^/]+)/(data\.pkl|data/\d+|version|byteorder|\.data/serialization_id|\.format_version|\.storage_alignment)"
)
BYTES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage"), 8),
}
# The instructions of a pickle that build plain values, in torch's version 2 of the format.
INSTRUCTIONS = frozenset(
    (
        *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BINUNICODE", "BINFLOAT"),
        *("BININT", "BININT1", "BININT2", "LONG1", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
    )
)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    shape: tuple[int, ...]


class Global:
    """A name of torch's that a file may use. It has no state that the file could set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a class")


class Storage(Global):
    """The numbers of a tensor, in a member of the file."""

    __slots__ = ("itemsize",)

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize


class Dict(dict[Any, Any]):
    """An ordered dict, whose attributes are values of the file as well."""

    def __setstate__(self, state: Any) -> None:
        self[None] = state


class MakeDict(Global):
    """Python's `collections.OrderedDict`."""

    __slots__ = ()

    def __call__(self) -> Dict:
        return Dict()


class MakeTensor(Global):
    """torch's function that makes a tensor of a storage, which `persistent_load` replaced by its length."""

    __slots__ = ()

    def __call__(self, length: int, offset: int, shape: Any, stride: Any, *rest: Any) -> Stored:
        numbers = [length, offset, *shape, *stride]
        if not all(type(number) is int and number >= 0 for number in numbers) or len(shape) != len(stride):
            raise ValueError("a tensor has a shape that is none")
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if prod(shape) > length or (prod(shape) and last >= length):
            raise ValueError("a tensor is larger than its numbers")
        return Stored(tuple(shape))


GLOBALS: dict[str, Global] = {
    "collections OrderedDict": MakeDict(),
    "torch._utils _rebuild_tensor_v2": MakeTensor(),
    **{f"torch {name}": Storage(size) for name, size in BYTES.items()},
}


class Outline(pickle.Unpickler):
    """Reads a pickle of plain values and tensors, and calls nothing but the functions above.

    Args:
        file: the pickle.
        sizes: the bytes of each storage, by its key.
    """

    def __init__(self, file: IO[bytes], sizes: Mapping[str, int]) -> None:
        super().__init__(file)
        self.sizes = sizes

    def find_class(self, module: str, name: str) -> Global:
        return GLOBALS[f"{module} {name}"]

    def persistent_load(self, key: Any) -> int:
        kind, storage, name, _, length = key
        if kind != "storage" or self.sizes[name] != length * storage.itemsize:
            raise ValueError("the numbers of a tensor are missing")
        return length


def outline(path: Path) -> Any:
    """Return the structure of a file of torch's, with its tensors as `Stored`.

    Raises:
        ValueError: if it is not such a file, is not plain data, or needs more memory than its size.
        OSError: if it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path.stat().st_size)
            with archive.open(members["data.pkl"]) as file:
                _check_instructions(file)
            sizes = {name[5:]: each.file_size for name, each in members.items() if name.startswith("data/")}
            with archive.open(members["data.pkl"]) as file:
                found = Outline(file, sizes).load()
    except (zipfile.BadZipFile, NotImplementedError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError("it is truncated or of another kind") from error
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("its structure is not that of a checkpoint") from error
    _check_size(found)
    return found


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for each in archive.infolist():
        name = MEMBER.fullmatch(each.filename)
        if name is None or name[2] in found or each.filename.partition("/")[0] != _first(archive):
            raise ValueError(f"a checkpoint has no member {each.filename!r}, or only one")
        if each.compress_type != zipfile.ZIP_STORED or each.compress_size != each.file_size:
            raise ValueError("a member is compressed, and torch writes none so")
        found[name[2]] = each
    if archive.comment or sum(each.file_size for each in found.values()) > size:
        raise ValueError("its members are larger than the file")
    return found


def _first(archive: zipfile.ZipFile) -> str:
    return archive.infolist()[0].filename.partition("/")[0]


def _check_instructions(file: IO[bytes]) -> None:
    content = file.read(LARGEST_OUTLINE + 1)
    if len(content) > LARGEST_OUTLINE:
        raise ValueError("its structure is too large")
    for number, (instruction, found, _) in enumerate(pickletools.genops(content)):
        name, argument = instruction.name, found or 0
        if name == "GLOBAL" and argument not in GLOBALS:
            raise ValueError(f"it names {argument}, which weights do not need")
        if name not in INSTRUCTIONS:
            raise ValueError(f"it holds the instruction {name}, which weights do not need")
        # A memo takes memory up to its largest index.
        if number > MOST_VALUES or (name.endswith("BINPUT") and argument > MOST_VALUES):
            raise ValueError("its structure is too large")


def _check_size(node: Any) -> None:
    # A list that holds another one twice counts it twice, as every walk over the values does.
    waiting, found = [(node, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        children = _children(each)
        found += len(children)
        if found > MOST_VALUES or depth > DEEPEST:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values, or {DEEPEST} levels of them")
        waiting.extend((child, depth + 1) for child in children)


def _children(node: Any) -> Sequence[Any]:
    if isinstance(node, Mapping):
        return [*node.keys(), *node.values()]
    return node if isinstance(node, list | tuple) else ()
