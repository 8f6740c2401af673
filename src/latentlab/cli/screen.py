"""The output of a command: lines and tables that fit the terminal, and that a program can search in a pipe."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

UNLIMITED = 10_000  # characters of a line in a pipe or a file
BORDER = 3  # characters between two columns
DEEP = 12  # characters before a line of a help text that continues the description in the line before
# The words of a line. A command between backticks is one word.
WORD = re.compile(r"(?:[^\s`]|`[^`]*`)+|\S+")


def terminal() -> "Console":
    """Return a console for standard output. In a pipe or a file, lines and tables have any width."""
    from rich.console import Console  # late, as --help in a pipe is answered without it

    anywhere = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=UNLIMITED if anywhere else None, soft_wrap=True, highlight=False, emoji=False)


def say(console: "Console", line: str, indent: str = "") -> None:
    """Print a line of words, see `fitted`."""
    console.print(fitted(visible(line), console.width, indent), markup=False)


def warn(line: str) -> None:
    """Print a line of words on standard error."""
    print(_shown(line, sys.stderr), file=sys.stderr)


def printable(text: str) -> str:
    """Return a text as one line without control characters, since it may come from somebody else."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class ScreenHandler(logging.Handler):
    """Prints the log on standard output. While a bar is shown, its lines appear above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # The bar replaces sys.stdout, so that a stream that is kept would write into it.
            print(_shown(self.format(record), sys.stdout), flush=True)
        except Exception:
            self.handleError(record)


def visible(text: str) -> str:
    """Return a text with control characters written out, as they may come from the files of somebody else."""
    return "".join(c if c.isprintable() or c in "\n\t" else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    return " " if character.isspace() else character.encode("unicode_escape").decode()


def _shown(text: str, stream: TextIO) -> str:
    text = visible(text)
    if not stream.isatty():  # a program may read it, also if COLUMNS is set
        return text
    from rich.console import Console

    width = Console(file=stream).width
    return "\n".join(fitted(line, width) for line in text.splitlines())


def fitted(line: str, width: int, indent: str = "") -> str:
    """Return a line of words as lines of at most `width` characters, with `indent` before all but the first.

    It is broken between its parts, which two spaces separate. A part that is longer than a line is broken at spaces.
    A path, a setting and a command between backticks stay whole, also if they are longer than a line.
    """
    lines = [""]
    for gap, part in re.findall(r"(\s*)(\S+(?: \S+)*)", line):
        words = [part] if len(indent) + len(part) <= width else WORD.findall(part)
        for space, word in zip([gap, *[" "] * len(words)], words, strict=False):
            if lines[-1] and len(lines[-1] + space + word) > width:
                lines.append(indent + word)
            else:
                lines[-1] += space + word
    return "\n".join(lines)


def show_help(text: str) -> None:
    """Print a help text, see `reflow`. In a pipe or a file it stays as it is."""
    print(reflow(text, terminal().width) if sys.stdout.isatty() else text)


def reflow(text: str, width: int) -> str:
    """Return a help text with its long lines broken at spaces. The description of a command moves below it."""
    joined = re.sub(rf"\n {{{DEEP},}}", " ", text)
    return "\n".join(_broken(line, width) for line in joined.splitlines())


def _broken(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    margin = " " * (len(line) - len(line.lstrip()))
    described = re.fullmatch(r"(\s*(?:python|latentlab) .+?|.*?\S)(?:(?<=\w)  | {3,})(\S.*)", line)
    first, rest = described.groups() if described else (line, "")
    below = f"{margin}    "
    parts = [first, below + rest] if rest else [first]
    return "\n".join(fitted(part, width, below) for part in parts)


def show_table(
    console: "Console", columns: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1
) -> None:
    """Print a table. The cells of its first column are broken at spaces if it is too wide.

    If that is not enough, each row is printed as a line of words.

    Args:
        console: the output.
        columns: the titles.
        rows: the cells, as many as titles in each row.
        texts: the number of columns with text. The further ones hold numbers.
    """
    from rich.markup import escape
    from rich.table import Table

    rows = [[visible(cell) for cell in row] for row in rows]
    others = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)][1:]
    longest = max(len(word) for cell in (columns[0], *(row[0] for row in rows)) for word in cell.split())
    if longest + sum(others) + BORDER * len(columns) + 1 > console.width:
        for row in rows:
            pairs = zip(columns[1:], row[1:], strict=True)
            say(console, "  ".join([row[0], *(f"{name} {cell}" for name, cell in pairs)]), indent="  ")
        return
    table = Table()
    for index, name in enumerate(columns):
        table.add_column(
            escape(name), justify="left" if index < texts else "right", no_wrap=index > 0, overflow="fold"
        )
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
