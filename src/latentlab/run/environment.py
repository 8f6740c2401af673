"""environment.json: the machine and the versions of the code behind a run, once for each time it was started."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from latentlab.errors import UserError
from latentlab.run.config import leaves
from latentlab.run.files import write_text
from latentlab.run.results import read_mapping

PACKAGES = ("latentlab", "torch", "pytorch-lightning", "hydra-core", "omegaconf", "numpy", "torchvision")
# The modules of these packages. Others in a config are the user's own.
KNOWN = ("latentlab", "torch", "pytorch_lightning", "hydra", "torchvision")
SESSIONS = "sessions"
MOST = 100  # sessions that are kept
SECONDS = 5.0  # for git, which may wait for a disk


def add_session(path: Path, command: str, config: Mapping[str, Any], resumed: bool) -> None:
    """Write the environment of this process into the file, after those of the sessions that a resumed run keeps."""
    before = _sessions(path) if resumed else []
    sessions = [*before, describe(command, config)][-MOST:]
    write_text(path, json.dumps({SESSIONS: sessions}, indent=2) + "\n")


def describe(command: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions and the machine of this process.

    Args:
        command: the command line.
        config: the config of the run. The packages of its classes are listed too.
    """
    modules = {"latentlab", *_modules(config)}
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command,
        "python": platform.python_version(),
        "packages": dict(_versions(modules)),
        "commits": {name: commit for name in sorted(modules) if (commit := _commit(name))},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": _gpus(config["trainer"].get("accelerator")),
    }


def last_command(path: Path) -> str:
    """Return the command of the last session in the file, "" if there is none."""
    last = (_sessions(path) or [None])[-1]
    command = last.get("command") if isinstance(last, dict) else None
    return command if isinstance(command, str) else ""


def _sessions(path: Path) -> list[Any]:
    # The file may come from somebody else, and nothing depends on it: a damaged one is replaced.
    with suppress(UserError):
        found = read_mapping(path).get(SESSIONS)
        return found if isinstance(found, list) else []
    return []


def _modules(config: Mapping[str, Any]) -> set[str]:
    targets = (value for key, value in leaves(config) if key.rpartition(".")[2] == "_target_")
    return {str(target).partition(".")[0] for target in targets if target}


def _versions(modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    other = sorted(set(modules) - set(KNOWN))
    providers = packages_distributions() if other else {}
    for name in (*PACKAGES, *(package for module in other for package in providers.get(module, ()))):
        with suppress(PackageNotFoundError):
            yield name, version(name)


def _commit(module: str) -> str | None:
    """Return the commit of a module's source, with "-dirty" after changes. None if git does not track it."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not _git(file, "ls-files", "--error-unmatch", Path(file).name):
        return None
    return _git(file, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(file: str, *words: str) -> str | None:
    # A hook of git sets variables that name another repository.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(Path(file).parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=plain, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _gpus(accelerator: object) -> list[str]:
    if accelerator == "cpu":  # asking for a name would take memory of the GPU
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
