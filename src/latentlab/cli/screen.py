"""The output of a command: lines and tables that fit the terminal, and that a program can search in a pipe."""

import os
import re
import sys
from collections.abc import Sequence
from textwrap import wrap

from rich.console import Console
from rich.markup import escape
from rich.table import Table

UNLIMITED = 10_000  # characters of a line in a pipe or a file
NARROWEST = 20  # characters of the first column of a table
BORDER = 3  # characters between two columns


def terminal() -> Console:
    """Return a console for standard output. In a pipe or a file, lines and tables have any width."""
    anywhere = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=UNLIMITED if anywhere else None, soft_wrap=True, highlight=False)


def say(console: Console, line: str, indent: str = "") -> None:
    """Print a line of words. A long one is broken at spaces, with `indent` before its further lines.

    A path or a setting stays whole, also if it is longer than a line.
    """
    parts = wrap(
        line,
        width=console.width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for part in parts:
        console.print(part, markup=False)


def reflow(text: str, width: int) -> str:
    """Return a help text with its long lines broken at spaces. The description of a command moves below it."""
    return "\n".join(line for long in text.splitlines() for line in _broken(long, width))


def _broken(line: str, width: int) -> list[str]:
    margin = " " * (len(line) - len(line.lstrip()))
    described = re.fullmatch(r"(\s*python .+?|.*?\S)(?:(?<=\w)  | {3,})(\S.*)", line)
    if len(line) <= width:
        return [line]
    first, rest = described.groups() if described else (line, "")
    parts = [*_wrapped(first, width, f"{margin}    "), *_wrapped(rest, width - 4 - len(margin), "")]
    return [
        parts[0],
        *(part if part.startswith(margin + "    ") else f"{margin}    {part}" for part in parts[1:]),
    ]


def _wrapped(line: str, width: int, indent: str) -> list[str]:
    return wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def show_table(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1
) -> None:
    """Print a table. The cells of its first column are broken if it is too wide.

    If that is not enough, each row is printed as a line of words.

    Args:
        console: the output.
        columns: the titles.
        rows: the cells, as many as titles in each row.
        texts: the number of columns with text. The further ones hold numbers.
    """
    others = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)][1:]
    if sum(others) + BORDER * len(columns) + 1 + NARROWEST > console.width:
        for row in rows:
            pairs = zip(columns[1:], row[1:], strict=True)
            say(console, ", ".join([row[0], *(f"{name} {cell}" for name, cell in pairs)]), indent="  ")
        return
    table = Table()
    for index, name in enumerate(columns):
        table.add_column(
            escape(name), justify="left" if index < texts else "right", no_wrap=index > 0, overflow="fold"
        )
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
