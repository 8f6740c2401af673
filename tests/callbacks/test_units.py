"""The KL of each latent by epoch."""

import csv

import pytest
from commands import QUICK, call
from runs import same_weights, train

from latentlab.figures.kl import kl_by_unit

SETTINGS = (
    *(word for word in QUICK if not word.startswith(("callbacks", "trainer.max"))),
    *("model.latent_dim=3", "figures=none"),
)


def rows(run, name="units"):
    with (run / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three epochs."""
    run = tmp_path_factory.mktemp("units") / "whole"
    assert call("train.py", *SETTINGS, "trainer.max_epochs=3", f"hydra.run.dir={run}").status == 0
    return run


def test_the_kls_of_the_latents_add_up_to_that_of_the_validation(whole):
    validated = [row for row in rows(whole, "metrics") if row["val/kl"]]
    assert [row["epoch"] for row in rows(whole)] == ["0", "1", "2"]
    for row, known in zip(rows(whole), validated, strict=True):
        kls = [float(row[f"kl_1_{unit}"]) for unit in (1, 2, 3)]
        assert sum(kls) == pytest.approx(float(known["val/kl"]), abs=1e-4)
        assert 0 <= float(row["active_units"]) <= 3 and row["step"] == known["step"]
    assert not (whole / "figures").exists()


def test_a_run_has_the_same_results_without_it(whole, tmp_path):
    train(tmp_path, *SETTINGS, "callbacks=default", "trainer.max_epochs=3", "~callbacks.units")
    assert same_weights(whole, tmp_path) and not (tmp_path / "units.csv").exists()


def test_a_resumed_run_has_the_rows_of_the_uncut_one(whole, tmp_path):
    train(tmp_path, *SETTINGS, "callbacks=default", "trainer.max_epochs=2")
    with (tmp_path / "units.csv").open("a") as file:  # a row that no checkpoint has
        file.write("1,79,1.0,0.1,0.1,0.1\n")
    done = call("train.py", f"resume={tmp_path}", "trainer.max_epochs=3")
    assert done.status == 0, done.err
    assert (tmp_path / "units.csv").read_bytes() == (whole / "units.csv").read_bytes()


def test_the_map_is_sorted_by_the_last_epoch(tmp_path):
    path = tmp_path / "units.csv"
    lines = [
        "epoch,step,active_units,kl_1_1,kl_1_2,kl_2_1",
        "0,9,1,0.3,0.2,0.1",
        "0,19,2,0.5,0.2,0.1",
        "1,29,2,0.1,0.4,",
    ]
    path.write_text("\n".join(lines) + "\n")
    first, _, *maps = kl_by_unit(path).axes
    assert first.lines[0].get_xydata().tolist() == [[1, 2], [2, 2]]  # the last row of an epoch counts
    values = [axes.collections[0].get_array().tolist() for axes in maps[::2]]
    assert values[0] == [pytest.approx([0.2, 0.4]), pytest.approx([0.5, 0.1])]
    assert values[1][0][0] == pytest.approx(0.1)
