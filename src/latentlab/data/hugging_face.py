"""Data sets of Hugging Face on disk: Parquet files, or a folder that `datasets` saved."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentlab.data.arrays import Conversion, Part, as_labels, as_parts
from latentlab.data.pictures import SPLITS, is_picture, stacked, visible
from latentlab.errors import UserError

ENDINGS = (".parquet", ".arrow")


def is_hugging_face(folder: Path) -> bool:
    """Return True if a folder holds such files, and no pictures beside them."""
    return any(_files(folder)) and not any(map(is_picture, _near(folder)))


def read_hugging_face(folder: Path, convert: Conversion) -> dict[str, Part]:
    """Read the images and labels of all files by split, in the order of the files' names.

    The images are the first column of pictures or arrays, the labels the column `label`, or the first one whose name
    holds that word.

    Raises:
        UserError: if pyarrow is not installed, or there are no images.
    """
    tables: dict[str, list[Any]] = {}
    for path in _files(folder):
        tables.setdefault(_split(path, folder), []).append(_table(path))
    import pyarrow as pa

    return {split: _part(pa.concat_tables(parts), folder, convert) for split, parts in tables.items()}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in _near(folder) if path.suffix in ENDINGS)


def _near(folder: Path) -> Iterator[Path]:
    # Hugging Face keeps the files here, in data/, or in folders of splits.
    return (path for pattern in ("*", "*/*") for path in visible(folder, pattern))


def _split(path: Path, folder: Path) -> str:
    # train-00000-of-00001.parquet, or the folder of a split.
    words = re.findall(r"[a-z]+", str(path.relative_to(folder)).lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "train")


def _table(path: Path) -> Any:
    try:
        import pyarrow as pa
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise UserError(f"{path}: this format needs pyarrow: pip install 'latentlab[huggingface]'") from error
    try:
        if path.suffix == ".parquet":
            return parquet.read_table(path)
        with pa.memory_map(str(path)) as file:
            return ipc.open_stream(file).read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())})") from error


def _part(table: Any, folder: Path, convert: Conversion) -> Part:
    import pyarrow.types as kinds

    types = {field.name: field.type for field in table.schema}
    pictures = [
        name for name, kind in types.items() if kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0
    ]
    arrays = [name for name, kind in types.items() if kinds.is_nested(kind) and name not in pictures]
    labels = sorted((name for name in types if "label" in name), key=lambda name: name != "label")
    number = table.num_rows
    y = as_labels(table[labels[0]].to_numpy() if labels else None, number, folder)
    if pictures:
        files = (
            (f"{folder}, row {row}", file.as_py()["bytes"]) for row, file in enumerate(table[pictures[0]])
        )
        return Part(stacked(files, number, number, folder, convert), y)
    if not arrays:
        raise UserError(f"{folder} has the columns {', '.join(types)}, and none of images")
    values = np.array(table[arrays[0]].to_pylist())
    return Part(as_parts({"train": (values, None)}, folder, convert)["train"].x, y)
