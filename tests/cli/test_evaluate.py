"""Several runs evaluated by one command."""

import json

import pytest
from commands import call
from runs import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs that differ in their seed, and one without a checkpoint."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (1, 2):
        train(folder / str(seed), f"seed={seed}", "protocol=continuous", "likelihood=gaussian_fixed")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.yaml").write_text((folder / "1" / "config.yaml").read_text())
    return folder


def evaluation(run):
    return json.loads((run / "evaluation.json").read_text())


def test_a_folder_of_runs_is_evaluated_and_a_failed_run_is_named(folder):
    done = call("evaluate.py", f"run={folder}", "nll.samples=3", "figures.draw=false")
    assert done.status == 1
    assert f"{folder / 'broken'}: " in done.err and done.err.splitlines()[-1].startswith("error: 1 of 3 runs")
    bounds = [evaluation(folder / name)["test/elbo"] for name in "12"]
    assert f"{abs(sum(bounds)) / 2:.2f}" in done.out and "standard error" in done.out
    together = evaluation(folder / "1")
    alone = call("evaluate.py", f"run={folder / '1'}", "nll.samples=3", "figures.draw=false")
    assert alone.status == 0 and evaluation(folder / "1") == together
    assert "density" in together["remarks"][0]


def test_settings_of_one_run_are_refused_for_several(folder, tmp_path):
    runs = f"run=[{folder / '1'},{folder / '2'}]"
    done = call("evaluate.py", runs, f"output_dir={tmp_path}")
    assert done.status == 1 and "output_dir" in done.err and "Traceback" not in done.err
