"""Geodesics of a run, and their variation over retrained runs, from the command line."""

import csv
from pathlib import Path
from statistics import mean, stdev

import pytest
from commands import call, refusal
from runs import train

from latentlab.compare.__main__ import main

SMALL = ("model.latent_dim=2", "data.train_size=200", "trainer.log_every_n_steps=1", "decoder.hidden=[8]")
QUIET = ("nll.samples=0", "mutual_information.examples=0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder / str(seed), *SMALL, "model.decoders=2", f"seed={seed}") for seed in (1, 2)]


def rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_distances_of_fixed_pairs_are_compared_over_runs(runs: list[Path], tmp_path: Path) -> None:
    for run, pairs in zip(runs, (4, 3), strict=True):
        done = call("evaluate.py", f"run={run}", f"geometry.pairs={pairs}", "geometry.points=6", *QUIET)
        assert done.status == 0, done.err
        assert (run / "figures" / "geodesics.png").exists()
    one, two = (rows(run / "geodesics.csv") for run in runs)
    assert [row["first"] for row in one[:3]] == [row["first"] for row in two]
    assert all(0 < row["geodesic"] <= row["straight"] * (1 + 1e-5) for row in [*one, *two])
    main([str(runs[0].parent), "figure=distances", f"out={tmp_path}/distances.csv"])
    main([str(runs[0].parent), "figure=distances", f"out={tmp_path}/distances.png"])
    with (tmp_path / "distances.csv").open() as file:
        (row,) = csv.DictReader(file)
    both = [(a["geodesic"], b["geodesic"]) for a, b in zip(one[:3], two, strict=True)]
    assert float(row["geodesic"]) == pytest.approx(mean(stdev(pair) / mean(pair) for pair in both))
    assert (row["runs"], row["pairs"]) == ("2", "3")


@pytest.mark.parametrize("setting", ["geometry.pairs=5000", "geometry.pairs=-1", "geometry.points=2"])
def test_settings_out_of_range_are_refused(runs: list[Path], setting: str) -> None:
    key = setting.partition("=")[0]
    assert key in refusal(call("evaluate.py", f"run={runs[0]}", "geometry.pairs=2", setting, *QUIET))


def test_no_decoder_is_refused() -> None:
    assert "model.decoders" in refusal(
        call("train.py", "data=binarised_digits", "logger=none", "model.decoders=0")
    )
