"""`latentlab results RUN RUN ... out=docs/results.md`: a page of results beside published figures, and a JSON.

A RUN is a run directory, or a folder with runs below it. A run belongs to a row of published.yaml if its config is
that of the row's command, apart from the seed, the budget and settings without an influence. Other runs are named on
standard error and left out. Options may be given as `--out FILE` or `out=FILE`.
"""

import json
import os
import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from latentlab.cli.command import OneLineParser
from latentlab.cli.screen import printable, warn
from latentlab.cli.script import typed
from latentlab.compare.runs import collect
from latentlab.errors import UserError
from latentlab.figures.drawing import Figure, save
from latentlab.results import page
from latentlab.results.curves import curves
from latentlab.results.entries import read_entries
from latentlab.results.page import Line
from latentlab.results.rows import PUBLISHED, protocols, read_rows
from latentlab.run.files import read_text, write_text


def parse(words: Sequence[str]) -> Namespace:
    """Parse the command line.

    Raises:
        UserError: for a mistake in it.
    """
    parser = OneLineParser(
        prog=typed("results"), description="Write a page of results beside published figures, and a JSON."
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run directory, or a folder of runs")
    add(
        "--out", type=Path, default=Path("docs/results.md"), metavar="FILE", help="the page (docs/results.md)"
    )
    add(
        "--rows",
        type=Path,
        default=PUBLISHED,
        metavar="FILE",
        help="the published rows, instead of latentlab's own",
    )
    add("--curves", type=Path, metavar="FOLDER", help="a folder for learning curves below the full budget")
    add(
        "--readme",
        type=Path,
        metavar="FILE",
        help="a Markdown file that gets a short table between two markers",
    )
    given = parser.parse_args([re.sub(r"^(out|rows|curves|readme)=", r"--\1=", word) for word in words])
    if given.out.suffix != ".md":
        parser.error(f"out={given.out}: the name must end in .md")
    if given.readme is not None and given.readme.resolve() == given.out.resolve():
        parser.error(f"readme={given.readme}: this is the page of out=: give another file")
    return given


def main(words: Sequence[str]) -> None:
    """Write the page, the JSON and what else was asked for, and print the paths.

    Raises:
        UserError: for a mistake in the command line or in the rows, or if no run belongs to a row.
    """
    given = parse(words)
    _check_own(given.out.with_suffix(".json"))
    known = protocols(read_rows(given.rows))
    experiments, left_out = collect(given.runs, partial(read_entries, known=known))
    readings = [run.values for each in experiments for run in each.runs]
    found, others = page.lines(known, [entry for each in readings for entry in each.entries])
    for remark in (*left_out, *(remark for each in readings for remark in each.remarks), *others):
        warn(printable(remark))
    figures = _figures(found, given.curves)
    texts = {given.out.with_suffix(".json"): page.data(known, found)}
    links = {title: _link(path, given.out) for title, (path, _) in figures.items()}
    texts[given.out] = page.markdown(known, found, links, given.out.with_suffix(".json").name)
    if given.readme is not None:
        texts[given.readme] = _readme(given.readme, page.summary(found, _link(given.out, given.readme)))
    for path, figure in figures.values():
        print(save(figure, path))
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        print(path)


def _check_own(path: Path) -> None:
    """Refuse to replace a JSON file that is not a list of rows."""
    if not path.exists():
        return
    try:
        rows = json.loads(read_text(path))
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"table", "runs"} <= set(row) for row in rows
    ):
        raise UserError(
            f"{path} would be replaced and is no file of results: move it, or give another name as out="
        )


def _figures(found: Sequence[Line], folder: Path | None) -> Mapping[str, tuple[Path, Figure]]:
    """Return the path and the learning curves of each table that has some, by its title."""
    titles = dict.fromkeys(line.protocol.row.table for line in found if folder is not None)
    drawn = {title: curves([line for line in found if line.protocol.row.table == title]) for title in titles}
    return {
        title: ((folder or Path()) / f"results_{_slug(title)}.png", figure)
        for title, figure in drawn.items()
        if figure is not None
    }


def _slug(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower()).strip("_")


def _link(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start.parent)).as_posix()


def _readme(path: Path, table: str) -> str:
    try:
        return page.between(read_text(path), table)
    except ValueError as error:
        raise UserError(f"readme={path}: {error}") from error


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as mistake:
        warn(f"error: {printable(str(mistake))}")
        sys.exit(1)
