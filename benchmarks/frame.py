"""The frame of the benchmarks: processes that take turns, and the ratio of their figures with its spread."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import mean, median

HERE = Path(__file__).resolve().parent
# A difference of two times may be negative.
LINE = re.compile(r"^(epoch|whole) (\d+): (-?[\d.]+) s, (-?[\d.]+) s of processor time$", re.MULTILINE)


class Failed(Exception):
    """A process of a benchmark that failed."""


@dataclass(frozen=True)
class Finished:
    """A finished process.

    Attributes:
        out: its standard output.
        folder: the empty folder that it was given.
        started: the time at which it was started, in seconds since 1970.
        seconds: its duration.
        processor: its seconds of processor time, with its children.
        peak: the largest memory of it or a child, in MB.
        by_processor: True to read processor time instead of wall time.
    """

    out: str
    folder: Path
    started: float = 0.0
    seconds: float = 0.0
    processor: float = 0.0
    peak: float = 0.0
    by_processor: bool = False


@dataclass(frozen=True)
class Command:
    """A command and the figure that is read from it.

    Attributes:
        name: its name in the table.
        words: a script or `-c`, and its arguments. `{folder}` is an empty folder, and `{place}` that of the row.
        read: returns the figure of the finished process.
        variables: environment variables.
        cores: the number of cores that it may use, or None for all.
        beside: True to run one busy process on the same cores at the same time.
    """

    name: str
    words: Sequence[str]
    read: Callable[[Finished], float]
    variables: Mapping[str, str] = field(default_factory=dict)
    cores: int | None = None
    beside: bool = False


Runner = Callable[[Command, Path], Finished]


@dataclass(frozen=True)
class Row:
    """A row of the table: a ratio of two commands, or the figure of one.

    Attributes:
        name: the word that selects it.
        what: a description, `ours / reference`.
        ours: the command of latentlab.
        reference: the command that it is compared with, or None if `ours` reads a ratio already.
        goal: the largest good value, or None.
        prepare: commands that run once before, and are not measured.
        difference: True for the difference of the two figures instead of their ratio.
        unit: the unit of both figures.
        repeats: the number of alternations.
    """

    name: str
    what: str
    ours: Command
    reference: Command | None
    goal: float | None
    prepare: Sequence[Command] = ()
    difference: bool = False
    unit: str = "s"
    repeats: int = 3

    def value(self, ours: float, reference: float) -> float:
        return ours - reference if self.difference else ours / reference


@dataclass(frozen=True)
class Result:
    """The figures of a row, one pair for each alternation, or the reason why there are none."""

    row: Row
    pairs: Sequence[tuple[float, float]] = ()
    failure: str = ""

    @property
    def values(self) -> list[float]:
        return [self.row.value(*pair) for pair in self.pairs]

    @property
    def verdict(self) -> str:
        if self.failure:
            return "failed"
        if self.row.goal is None:
            return "no goal"
        return "reached" if median(self.values) <= self.row.goal else "missed"


def measure(row: Row, place: Path, run: Runner) -> Result:
    """Run the commands of a row in turns.

    Args:
        row: the row.
        place: an empty folder, which the commands of the row share.
        run: runs a command.
    """
    try:
        for command in row.prepare:
            run(command, place)
        return Result(row, [_pair(row, place, run, turn) for turn in range(row.repeats)])
    except Failed as error:
        return Result(row, failure=str(error))


def _pair(row: Row, place: Path, run: Runner, turn: int) -> tuple[float, float]:
    # The order changes with each turn, so that a drift of the machine favours neither.
    commands = [row.ours, *([row.reference] if row.reference else [])]
    order = commands if turn % 2 == 0 else commands[::-1]
    read = {command.name: command.read(run(command, place)) for command in order}
    return read[row.ours.name], read[row.reference.name] if row.reference else 1.0


@dataclass(frozen=True)
class Processes:
    """The runner that starts each command as a process, as a user does.

    Attributes:
        tree: the working tree whose latentlab is measured.
        threads: the threads of each process, or None for its own choice.
        by_processor: True to compare processor time instead of wall time, on a machine that has other work.
    """

    tree: Path
    threads: int | None = None
    by_processor: bool = False

    def __call__(self, command: Command, place: Path) -> Finished:
        folder = new_folder(place)
        words = [sys.executable, *filled(command.words, place, folder, self.tree)]
        with _cores(command.cores), _neighbour(command.beside):
            started, clock = time.time(), time.perf_counter()
            with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
                process = subprocess.Popen(
                    words, cwd=folder, env=self._environment(command), stdout=out, stderr=err, text=True
                )
                _, status, used = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - clock
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise Failed(f"{shlex.join(words)}: {_last_line(folder)}")
        per_mb = 2**20 if sys.platform == "darwin" else 2**10
        return Finished(
            out=(folder / "out").read_text(),
            folder=folder,
            started=started,
            seconds=seconds,
            processor=used.ru_utime + used.ru_stime,
            peak=used.ru_maxrss / per_mb,
            by_processor=self.by_processor,
        )

    def _environment(self, command: Command) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PL_", "LATENTLAB_"))}
        threads = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        path = os.pathsep.join([str(self.tree / "src"), str(HERE)])
        return {**kept, "WANDB_MODE": "offline", **threads, "PYTHONPATH": path, **command.variables}


def filled(words: Sequence[str], place: Path, folder: Path, tree: Path) -> list[str]:
    """Return the words of a command with its folders and the full path of its script."""
    script, *rest = (word.replace("{folder}", str(folder)).replace("{place}", str(place)) for word in words)
    paths = [path for path in (tree / script, HERE / script) if path.is_file()]
    return [str(paths[0]) if paths else script, *rest]


def new_folder(place: Path) -> Path:
    """Make the folder of the next command in the folder of a row."""
    folder = next(path for number in count(1) if not (path := place / f"{number}").exists())
    folder.mkdir(parents=True)
    return folder


@contextmanager
def _cores(number: int | None) -> Iterator[None]:
    # A child inherits the cores of its parent. macOS cannot choose them.
    if number is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def _neighbour(busy: bool) -> Iterator[None]:
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _last_line(folder: Path) -> str:
    lines = (folder / "err").read_text().strip().splitlines() or (folder / "out").read_text().splitlines()
    return lines[-1] if lines else "no output"


def seconds(done: Finished) -> float:
    """The duration of a process."""
    return done.processor if done.by_processor else done.seconds


def peak(done: Finished) -> float:
    """The peak memory of a process in MB."""
    return done.peak


def training(done: Finished) -> float:
    """The seconds of an epoch's training steps."""
    return _epochs(done, "epoch", done.by_processor)


def training_wall(done: Finished) -> float:
    """The wall time of an epoch's training steps."""
    return _epochs(done, "epoch", False)


def training_processor(done: Finished) -> float:
    """The processor time of an epoch's training steps."""
    return _epochs(done, "epoch", True)


def whole(done: Finished) -> float:
    """The seconds of a whole epoch."""
    return _epochs(done, "whole", done.by_processor)


def whole_processor(done: Finished) -> float:
    """The processor time of a whole epoch."""
    return _epochs(done, "whole", True)


def _epochs(done: Finished, kind: str, by_processor: bool) -> float:
    # The first epoch warms up the libraries. A bare loop has nothing but its steps.
    found = [line for line in LINE.finditer(done.out) if line[1] == kind] or [*LINE.finditer(done.out)]
    if not found:
        raise Failed(f"{done.folder}: no epoch was timed")
    return mean(float(line[4 if by_processor else 3]) for line in found[1:] or found)
