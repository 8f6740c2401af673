"""Full disks, read-only disks and missing folders: one line of error, and the last good checkpoint stays."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import ROOT, environment
from forks import Ended, Running, forked, start
from test_races import wait_for
from wholeness import OFFLINE, TINY, check_whole, curve

from latentlab.run.directory import RunDirectory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness reads /proc")
RESULTS = ("summary.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv")
CHECKPOINT = 360_000  # bytes, a little more than one of a TINY run


@contextmanager
def disk(place: Path, size: int, mode: str = "rw") -> Iterator[Path]:
    """A small file system at `place`."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},{mode}", "tmpfs", str(place)])
    if mounted.returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def train(home: Path, *words: str, place: str | Path = "run") -> Ended:
    return forked("train.py", *TINY, f"hydra.run.dir='{place}'", *words, home=home, env=OFFLINE)


def in_new_process(home: Path, *words: str, limits: str = "", env: Mapping[str, str | None] = {}) -> Ended:
    """Train in a new process, for limits and variables that count while the libraries are imported."""
    line = f'{limits} exec "$0" "$@"'
    variables = {**environment(home), **OFFLINE, **env}
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, str(ROOT / "train.py"), *TINY, "hydra.run.dir=run", *words],
        cwd=home,
        env={name: value for name, value in variables.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Ended(done.returncode, done.stdout, done.stderr, 0, 0)


def error_of(ended: Ended) -> str:
    """Return the one line of error. Another line may name the command that resumes the run."""
    assert ended.status == 1, ended
    [line] = [each for each in ended.err.splitlines() if not each.startswith("resume: ")]
    assert line.startswith("error: "), ended.err
    return line


def left(run: Path) -> str:
    """Check that the files of a run are whole, and name those that matter."""
    if not run.exists():
        return "no directory"
    kept = [Path(name).name for name in RESULTS if name in check_whole(run)]
    return ", ".join(kept) or "no results"


def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    with disk(tmp_path / "small", 2 * CHECKPOINT + 200_000) as place:
        ended = train(tmp_path, "logger=none", "trainer.max_epochs=2", place=place / "run")
        line = error_of(ended)
        assert "No space left" in line and "best.ckpt" in line and "resume: " in ended.err
        assert left(place / "run") == "best.ckpt, last.ckpt, metrics.csv"


@dataclass(frozen=True)
class Row:
    """A row of the table: the fault, the exit status, the message and the files that are left."""

    fault: str
    status: int
    message: str
    files: str

    def __str__(self) -> str:
        return f"{self.fault:34} {self.status}  {self.files:48} {self.message}"


def ends(fault: str, run: Path, ended: Ended) -> Row:
    return Row(fault, ended.status, error_of(ended).replace(str(run), "RUN"), left(run))


def survives(fault: str, run: Path, ended: Ended) -> Row:
    assert ended.status == 0, ended
    assert "error" not in ended.err.lower(), ended.err
    assert "summary.json, best.ckpt, last.ckpt" in left(run)
    return Row(fault, ended.status, ended.err.strip() or "nothing lost", left(run))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    home = tmp_path_factory.mktemp("alone")
    assert train(home, "logger=none", "trainer.max_epochs=3").status == 0
    return curve(home / "run")


@pytest.mark.faults
@pytest.mark.parametrize("logger", ["none", "wandb"])
def test_full_disks(tmp_path, alone, logger):
    rows = []
    for free in (0, 8_192, 60_000, 300_000, 700_000, 1_000_000):
        with disk(tmp_path / f"{free}", 2_000_000) as place:
            (place / "filler").write_bytes(bytes(disk_space(place) - free))
            words = (f"logger={logger}", "trainer.max_epochs=3")
            ended = train(tmp_path, *words, place=place / "run")
            assert str(place / "run") in ended.err
            rows.append(ends(f"full disk, {free:,} bytes free, {logger}", place / "run", ended))
            (place / "filler").unlink()
            resumes(tmp_path, place / "run", words)
            assert curve(place / "run") == alone
    print(*rows, sep="\n")


def disk_space(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def resumes(home: Path, run: Path, words: tuple[str, ...]) -> None:
    """Finish a run once there is room again."""
    if RunDirectory(run).last_checkpoint.exists():
        ended = forked("train.py", f"resume={run}", home=home, env=OFFLINE)
    else:
        ended = train(home, *words, place=run)
    assert ended.status == 0, ended


def delete(home: Path) -> Row:
    running = begin(home, "trainer.max_epochs=50")
    wait_for(RunDirectory(home / "run").last_checkpoint)
    shutil.rmtree(home / "run")
    return ends("run directory deleted", home / "run", running.finish())


def quota(home: Path) -> Row:
    running = begin(home, "trainer.max_epochs=3", "logger=none")
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
    return ends("largest file 200 kB", home / "run", running.finish())


def begin(home: Path, *words: str) -> Running:
    return start("train.py", *TINY, "hydra.run.dir=run", *words, home=home, env=OFFLINE)


def read_only(home: Path) -> Row:
    with disk(home / "disk", 2_000_000, "ro") as place:
        return ends("read-only disk", place / "run", train(home, place=place / "run"))


def on_disk(home: Path, variable: str, mode: str = "rw") -> Ended:
    """Train with a variable that names a small file system."""
    with disk(home / "disk", 100_000, mode) as place:
        return in_new_process(home, "trainer.max_epochs=1", env={variable: str(place)})


def tiny_tmpdir(home: Path) -> Row:
    return survives("TMPDIR of 100 kB", home / "run", on_disk(home, "TMPDIR"))


def read_only_tmpdir(home: Path) -> Row:
    return survives("read-only TMPDIR", home / "run", on_disk(home, "TMPDIR", "ro"))


def missing_tmpdir(home: Path) -> Row:
    ended = in_new_process(home, "trainer.max_epochs=1", env={"TMPDIR": str(home / "none")})
    return survives("missing TMPDIR", home / "run", ended)


def descriptors(home: Path) -> Row:
    ended = in_new_process(home, "trainer.max_epochs=1", limits="ulimit -n 40;")
    return survives("40 file descriptors", home / "run", ended)


def no_home(home: Path) -> Row:
    ended = in_new_process(home, "trainer.max_epochs=1", env={"HOME": None})
    return survives("no HOME", home / "run", ended)


def read_only_home(home: Path) -> Row:
    return survives("read-only HOME", home / "run", on_disk(home, "HOME", "ro"))


def link(home: Path) -> Row:
    (home / "real").mkdir()
    (home / "link").symlink_to(home / "real")
    ended = train(home, "trainer.max_epochs=1", place="link")
    return survives("run directory is a link", home / "real", ended)


def strange_name(home: Path) -> Row:
    name = "Ærø strand – 1, (x=2)"
    ended = train(home, "trainer.max_epochs=1", place=name)
    return survives("spaces and unicode", home / name, ended)


FAULTS: list[Callable[[Path], Row]] = [
    *(read_only, quota, delete, tiny_tmpdir, read_only_tmpdir, missing_tmpdir, descriptors, no_home),
    *(read_only_home, link, strange_name),
]


@pytest.mark.faults
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_file_system(tmp_path, fault):
    print(fault(tmp_path))
