"""A good run to spoil, and code that leaves a file behind when it is executed."""

from collections.abc import Callable
from pathlib import Path

from forks import ROOT

GOOD = ROOT / "tests" / "fixtures" / "vae" / "run"
OWNED = "OWNED"  # the name of the file begins so
TOUCH = ["touch", OWNED]
CODE = f"open('{OWNED}', 'w')"
Spoil = Callable[[Path], None]
