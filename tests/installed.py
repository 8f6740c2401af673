"""The package as a wheel installs it: built, installed in a folder, and started from an empty one."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from commands import ROOT, Finished, environment
from forks import ADDRESS

SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "src", "conf")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
# Every process of the installed package writes down the files of the checkout that it opens.
SITE = """
import os, sys

def note(event, arguments):
    path = arguments[0] if event == "open" else None
    if isinstance(path, str) and path.startswith(({src!r}, {conf!r})):
        os.write(log, (path + "\\n").encode())

log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(note)
"""


class Installed:
    """A folder of installed packages, and an empty folder to work in.

    Attributes:
        packages: the folder of packages.
        home: the working directory.
        strays: a file with the files of the checkout that were opened.
    """

    def __init__(self, place: Path) -> None:
        self.packages, self.home, self.strays = place / "packages", place / "home", place / "strays"
        self.home.mkdir(parents=True)
        shutil.copytree(built(), self.packages)
        conf, src = (f"{ROOT / name}{os.sep}" for name in ("conf", "src"))
        text = SITE.format(src=src, conf=conf, log=str(self.strays))
        (self.packages / "sitecustomize.py").write_text(text)

    def install(self, project: Path) -> None:
        """Install a project next to the others."""
        install(project, self.packages)

    def environment(self) -> dict[str, str]:
        path = f"{self.packages / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return environment(self.home) | {"PYTHONPATH": str(self.packages), "PATH": path}

    def run(self, *words: str, **variables: str) -> Finished:
        """Run a command of the shell in the empty folder."""
        done = subprocess.run(
            words, cwd=self.home, env=self.environment() | variables, capture_output=True, text=True
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def run_all(self, *commands: str) -> str:
        """Run commands of latentlab one after the other in one process, which imports the libraries once."""
        done = self.run(sys.executable, "-P", "-c", SEVERAL, *commands)
        assert done.status == 0, done.err
        return done.out


def built() -> Path:
    """Return the folder in which latentlab is installed, once for all workers."""
    shared = Path(os.environ[ADDRESS])
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "sources").exists():
            copy_sources(shared / "sources")
            install(shared / "sources", shared / "packages")
    return shared / "packages"


def install(project: Path, packages: Path) -> None:
    """Install a project in a folder, without network."""
    options = ("--no-deps", "--no-index", "--no-build-isolation")
    subprocess.run([*PIP, "install", *options, "--target", packages, project], check=True)


SEVERAL = """
import shlex, sys
from hydra.core.global_hydra import GlobalHydra
from latentlab.__main__ import main
for command in sys.argv[1:]:
    sys.argv = shlex.split(command)
    main()
    GlobalHydra.instance().clear()
"""


def copy_sources(place: Path) -> None:
    """Copy what a build needs, because it writes into its folder."""
    place.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, place / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, place)
