"""A function that leaves a file behind when it is called."""

from pathlib import Path


def sing() -> None:
    Path("OWNED").touch()
