"""The table of a sweep and results.csv."""

import csv
from io import StringIO
from pathlib import Path
from statistics import stdev

import pytest
from rich.console import Console
from rich.text import Text

from latentlab.cli.screen import UNLIMITED
from latentlab.sweeps.jobs import directory, report
from latentlab.sweeps.jobs.job import Job, Outcome, Status


def job(folder: Path, label: str) -> Job:
    return Job(folder / label, tuple(label.split()), label)


def outcomes(folder: Path) -> list[Outcome]:
    elbos = {"model=vae seed=1": -100.0, "model=vae seed=2": -102.0, "model=vae seed=3": -107.0}
    elbos["model=ppca seed=1"] = -90.0
    finished = [
        Outcome(job(folder, label), Status.FINISHED, "", 65.0, {"test/elbo": elbo, "val/elbo": 1.0})
        for label, elbo in elbos.items()
    ]
    return [
        *finished,
        Outcome(
            job(folder, "model=autoencoder [x]"), Status.FINISHED, "", 3.0, {"test/reconstruction": -5.0}
        ),
        Outcome(job(folder, "model=vae seed=9"), Status.DIVERGED, "the bound is [nan]", 9000.0),
    ]


def shown(folder: Path, width: int, found: list[Outcome] | None = None) -> str:
    console = Console(file=StringIO(), width=width)
    report.show(found or outcomes(folder), console=console)
    return console.file.getvalue()


def test_the_table_has_every_job_and_the_spread_over_seeds(tmp_path):
    text = shown(tmp_path, 100)
    deviation = stdev([-100, -102, -107])
    row = next(line for line in text.splitlines() if "-103.00" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["model=vae", "3", "-103.00", f"{deviation:.2f}", f"{deviation / 3**0.5:.2f}"]
    for words in (
        *("test/elbo over seeds", "model=autoencoder [x]"),
        *("1 min 5 s", "2 h 30 min", "diverged: the bound is [nan]"),
    ):
        assert words in text, text


LONG = [
    f"model=conv_ladder_vae {'callbacks.best.monitor=val/elbo '}optimizer.lr=0.00{n} seed=1" for n in (1, 2)
]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(tmp_path, width):
    jobs = [Job(tmp_path, (), label) for label in LONG]
    done = Outcome(jobs[0], Status.FINISHED, "", 7500.0, {"test/elbo": -100.0})
    failed = Outcome(jobs[1], Status.FAILED, "the reason is a sentence of several words " * 3, 1.0)
    text = shown(tmp_path, width, [done, failed])
    console = Console(file=StringIO(), width=width, force_terminal=True)
    progress = report.SweepProgress(2, console=console)
    with progress._bar:
        progress.started(jobs[0], "started")
        progress.ended(done, 7500.0, slots=1)
        progress.ended(failed, 1.0, slots=1)
    lines = [*text.splitlines(), *Text.from_ansi(console.file.getvalue()).plain.splitlines()]
    assert max(map(len, lines)) <= width
    for label in LONG:
        assert all(word in text for word in label.split())
    assert "…" not in text and "several words" in text


def test_a_pipe_gets_a_job_in_one_line(tmp_path):
    label = " ".join(LONG)
    text = shown(tmp_path, UNLIMITED, [Outcome(Job(tmp_path, (), label), Status.FINISHED)])
    assert label in text and "\x1b" not in text


def test_the_metric_of_a_table():
    assert report.metric_of({"val/elbo": 1, "train/elbo": 2}) == ("val/elbo", 1.0)
    assert report.metric_of({"val/elbo": 1}, "test/nll") == ("test/nll", None)
    assert report.common_metric([], None) == "test/elbo"
    mixed = [
        Outcome(Job(Path(), ()), Status.FINISHED, summary={name: 1.0})
        for name in ("test/reconstruction", "train/elbo")
    ]
    assert report.common_metric(mixed) == "train/elbo"
    assert report.common_metric(mixed, "x") == "x"


def test_results_have_a_row_for_each_job(tmp_path):
    for name, status in {"one": "finished", "two": "failed"}.items():
        (tmp_path / name).mkdir()
        record = directory.Record(status, "", 1.0, 1, [f"model={name}", "+x=[1,2]"])
        directory.write_record(tmp_path / name, record)
    (tmp_path / "one" / "summary.json").write_text('{"test/elbo": -3.5}')
    (tmp_path / "one" / "wandb").mkdir()
    (tmp_path / "one" / "wandb" / "summary.json").write_text('{"test/elbo": {}}')  # W&B's own
    with report.write(tmp_path).open() as file:
        one, two = csv.DictReader(file)
    assert (one["model"], one["status"], one["test/elbo"], one["+x"]) == ("one", "finished", "-3.5", "[1,2]")
    assert (two["model"], two["status"], two["test/elbo"]) == ("two", "failed", "")
