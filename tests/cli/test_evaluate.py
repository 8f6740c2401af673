"""Several runs, other splits and the values of each example."""

import csv
import json
import shutil

import pytest
from commands import call, refusal
from runs import summary, train

from latentlab import zoo
from latentlab.run.results import read_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs that differ in their seed, and one without a checkpoint."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (1, 2):
        train(folder / str(seed), f"seed={seed}", "protocol=continuous", "likelihood=gaussian_fixed")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.yaml").write_text((folder / "1" / "config.yaml").read_text())
    return folder


@pytest.fixture
def run(folder, tmp_path):
    shutil.copytree(folder / "1", tmp_path / "run", ignore=shutil.ignore_patterns("evaluation.json"))
    return tmp_path / "run"


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


def test_runs_are_told_apart_by_their_place_and_any_failure_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ignored = shutil.ignore_patterns("evaluation.json")
    for name in ("nest", "nest/inner", "other"):
        shutil.copytree(folder / ("2" if name == "other" else "1"), tmp_path / name, ignore=ignored)

    def fail(place, results):
        if place.path.name == "other":
            raise TypeError("strange")
        return ""

    monkeypatch.setattr(zoo, "verified", fail)
    done = call("evaluate.py", "run=[other,nest,./nest,nest/]", "nll.samples=0", "figures.draw=false")
    assert done.status == 1 and "other: TypeError: strange" in done.err and "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("error: 1 of 2 runs")
    assert "2 of 2: nest" in done.out and "inner" not in done.out + done.err and "KeyError" not in done.err


@pytest.mark.parametrize("word", ["run=[]", "run=", "run=['']", "run=3"])
def test_no_run_is_one_line(word):
    assert word.partition("=")[0] + "=" in refusal(call("evaluate.py", word))


def test_settings_of_one_run_are_refused_for_several(folder, tmp_path):
    runs = f"run=[{folder / '1'},{folder / '2'}]"
    done = call("evaluate.py", runs, f"output_dir={tmp_path}")
    assert done.status == 1 and "output_dir" in done.err and "Traceback" not in done.err


def test_another_split_is_scored_beside_the_test_set(run):
    for more in (("samples=3",), ("split=val", "export=[examples]")):
        done = call("evaluate.py", f"run={run}", "nll.samples=3", "figures.draw=false", *more)
        assert done.status == 0, done.err
    assert "val/elbo" in done.out and "test/elbo" not in done.out
    results = read_evaluation(run / "evaluation.json", run / "checkpoints" / "best.ckpt")
    assert results["test/elbo_mc_stderr"] < results["test/elbo_stderr"]
    assert results["val/elbo"] == pytest.approx(summary(run)["val/elbo"], rel=1e-6)
    with (run / "export" / "val" / "examples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(results["val/num_examples"]))
    for column, value in {
        "elbo": results["val/elbo"],
        "kl": results["val/kl"],
        "log_px": -results["val/nll"],
    }.items():
        assert sum(float(row[column]) for row in rows) / len(rows) == pytest.approx(value, rel=1e-6)
    assert {int(row["label"]) for row in rows} == set(range(10))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("split=val", "speed.samples=10"), "SamplesPerSecond"),
        (("split=valid",), "split=valid"),
        (("devices=0",), "devices=0"),
    ],
)
def test_what_does_not_fit_is_refused(run, words, named):
    assert named in refusal(call("evaluate.py", f"run={run}", *words))
    assert not (run / "evaluation.json").exists()
