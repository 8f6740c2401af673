"""Bad values end a run in one line within seconds, and nothing is written."""

from pathlib import Path

import pytest
from bad_values import SETTINGS, Row, files, generated, written
from forks import Ended, forked

SHORT = 8
SECONDS = 20  # with the machine shared by other tests; alone it is less than 3


def mistakes(folder: Path, number: int, row: Row) -> list[str]:
    """The mistakes in the end of a bad command."""
    _, script, words, found = row
    home = folder / str(number)
    home.mkdir()
    ended = forked(script, *words, f"hydra.run.dir={home}/run", home=home, timeout=60)
    return [] if refused(ended, found) and not list(home.iterdir()) else [f"{' '.join(words)}: {ended}"]


def refused(ended: Ended, found: tuple[str, ...]) -> bool:
    lines = ended.err.splitlines()
    one = ended.status == 1 and len(lines) == 1 and lines[0].startswith("error: ")
    return one and all(word in lines[0] for word in found) and ended.seconds < SECONDS


def checked(folder: Path, rows: list[Row]) -> None:
    assert [line for n, row in enumerate(rows) for line in mistakes(folder, n, row)] == []


def test_some_bad_values_are_refused(tmp_path: Path) -> None:
    checked(tmp_path, list(written())[:: len(SETTINGS) // SHORT])


@pytest.mark.faults
def test_all_bad_values_are_refused(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    checked(tmp_path, [*written(), *files(tmp_path / "files")])


@pytest.mark.faults
def test_every_number_is_refused_on_the_command_line(tmp_path: Path) -> None:
    checked(tmp_path, list(generated())[::7])
