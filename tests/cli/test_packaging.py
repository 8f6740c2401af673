"""The project as it is installed: pins and hashes, make targets, the check script."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]


def pins() -> dict[str, list[tuple[Requirement, list[str]]]]:
    """For each package the pins (several where they depend on the Python version) and their hashes."""
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    for block in re.split(r"\n(?=[a-z])", REQUIREMENTS)[1:]:
        pin = Requirement(block.split("\\")[0].strip())
        found.setdefault(pin.name, []).append((pin, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block)))
    return found


def test_every_requirement_is_pinned_and_hashed() -> None:
    assert len(pins()) > 50
    for entries in pins().values():
        for pin, hashes in entries:
            assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
            assert hashes, pin


@pytest.mark.parametrize("text", DIRECT)
def test_pins_satisfy_pyproject(text: str) -> None:
    wanted = Requirement(text)
    versions = [str(pin.specifier).removeprefix("==") for pin, _ in pins()[wanted.name]]
    assert all(wanted.specifier.contains(version) for version in versions)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_one_pin_for_each_platform(python: str, platform: str) -> None:
    here = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    here |= {"sys_platform": platform}
    for text in DIRECT:
        entries = pins()[Requirement(text).name]
        assert sum(pin.marker is None or pin.marker.evaluate(here) for pin, _ in entries) == 1, text


def test_requirements_name_no_host() -> None:
    hostname = r"://|@|--(extra-)?index-url|--find-links|\.(org|com|net|io|dev)\b|\+cpu"
    assert not [line for line in REQUIREMENTS.splitlines() if re.search(hostname, line)]


def test_nothing_is_locked_twice() -> None:
    assert not (ROOT / "uv.lock").exists()


@pytest.mark.skipif(os.name == "nt", reason="no executable bit")
def test_check_script_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=alone, capture_output=True, text=True, timeout=60
    )


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="no make")


@needs_make
def test_make_lists_its_targets() -> None:
    [targets] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)
    shown = make().stdout
    assert shown == make("help").stdout
    assert set(targets.split()) == set(re.findall(r"^  make ([\w-]+)", shown, flags=re.M))


@needs_make
@pytest.mark.parametrize(
    ("stand_in", "reason"),
    [
        ("exit 1", "is not Python 3.11 or newer"),
        (f'case "$*" in *venv*) exit 1;; esac; exec "{sys.executable}" "$@"', "has no venv module"),
    ],
)
def test_unfit_interpreter_is_one_line(tmp_path: Path, stand_in: str, reason: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{stand_in}\n")
    python.chmod(0o755)
    done = make("test", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    assert reason in done.stderr.splitlines()[0]
    assert not (tmp_path / "venv").exists()
