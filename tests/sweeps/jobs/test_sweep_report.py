"""The table of a sweep and results.csv."""

import csv
from io import StringIO
from pathlib import Path
from statistics import stdev

from rich.console import Console

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


def test_the_table_has_every_job_and_the_mean_over_seeds(tmp_path):
    console = Console(file=StringIO(), width=100)
    report.show(outcomes(tmp_path), console=console)
    shown = console.file.getvalue()
    error = stdev([-100, -102, -107]) / 3**0.5
    for words in (
        *(f"-103.00 +- {error:.2f}", "2.08", "test/elbo", "model=autoencoder [x]"),
        *("1 min 5 s", "2 h 30 min", "diverged: the bound is [nan]"),
    ):
        assert words in shown, shown
    assert shown.count("+-") == 1 + 1  # the header, and the only group with several seeds


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
    with report.write(tmp_path).open() as file:
        one, two = csv.DictReader(file)
    assert (one["model"], one["status"], one["test/elbo"], one["+x"]) == ("one", "finished", "-3.5", "[1,2]")
    assert (two["model"], two["status"], two["test/elbo"]) == ("two", "failed", "")
