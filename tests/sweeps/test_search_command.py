"""The search from the command line: its space, and what is refused before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import QUICK, call, refusal
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from latentlab.errors import UserError
from latentlab.sweeps.jobs.job import Job, Status
from latentlab.sweeps.search.command import Batches, read_settings
from latentlab.sweeps.search.search import SearchSettings, check_metric
from latentlab.sweeps.search.space import read_space

SEARCH = ("-m", "sweep=optuna", *QUICK)


@pytest.mark.parametrize(
    ("sweep", "distribution"),
    [
        ("interval(0, 1)", FloatDistribution(0.0, 1.0)),
        ("tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(1, 5))", IntDistribution(1, 4)),
        ("range(2, 65)", IntDistribution(2, 64)),
        ("range(2, 65, 8)", IntDistribution(2, 58, step=8)),
        ("tag(log, range(2, 65))", IntDistribution(2, 64, log=True)),
        ("range(0.1, 0.5, 0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("choice(a, b)", CategoricalDistribution(["a", "b"])),
        ("[16],[16,32]", CategoricalDistribution(["[16]", "[16,32]"])),
        (["a", "b"], CategoricalDistribution(["a", "b"])),
        ([0.5, True], CategoricalDistribution(["0.5", "True"])),
    ],
)
def test_a_sweep_of_hydras_becomes_a_distribution(sweep, distribution):
    assert read_space({"x": sweep}, []).distributions == {"x": distribution}


def test_the_command_line_has_the_last_word_on_each_key():
    params = {"a": {"b": "range(1, 3)", "c": "range(1, 3)"}, "d.e": "x,y", "f": None}
    space = read_space(params, ["a.b=interval(0,1)", "d.e=x", "~callbacks.best", "+g=1"])
    assert space.distributions == {"a.b": FloatDistribution(0.0, 1.0), "a.c": IntDistribution(1, 2)}
    assert space.overrides({"a.b": 1e-5, "a.c": 2}) == [
        *("d.e=x", "~callbacks.best", "+g=1"),
        *("a.c=2", "a.b=1e-05"),
    ]


def test_the_size_of_a_space_and_its_corners():
    space = read_space({"a": "range(0, 10, 3)", "b": "x,y,z", "c": "range(0.1, 0.5, 0.1)"}, [])
    assert space.size == 4 * 3 * 4
    corners = list(space.corners())
    assert [corner["b"] for corner in corners] == ["x", "y", "z"] and {c["a"] for c in corners} == {0, 9}
    assert read_space({"a": "interval(0, 1)"}, []).size is None


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "a search needs a space"),
        ({"a": "1"}, "a search needs a space"),
        ({"seed": "1,2"}, "seed=1,2: a search would pick the luckiest seed"),
        ({"a": "range(3, 3)"}, "this range is empty"),
        ({"a": "tag(big, range(1, 3))"}, "the tag big is unknown"),
        ({"a": "tag(log, interval(0, 1))"}, "a=tag"),
        ({"a": "interval(2, 1)"}, "a=interval"),
    ],
)
def test_a_space_that_is_none_is_refused(params, words):
    with pytest.raises(UserError, match=r"\A.*\Z") as refused:
        read_space(params, [])
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: input should be greater than 0"),
        (["hydra/sweeper/storage=server"], "hydra.sweeper.storage.url is needed"),
        (["data.val_size=0"], "leaves no validation set"),
        (["trainer.devices=0"], "trainer.devices=0: at least one device"),
        (["hydra.sweeper.storage.path=/dev/null/x"], "hydra.sweeper.storage: this cannot be opened"),
        (["optimizer.lrr=interval(0,1)"], "optimizer.lrr: no such key or group; did you mean optimizer.lr?"),
        (["data.batch_size=choice(0,10)"], "data.batch_size=0: input should be greater than 0"),
    ],
)
def test_mistakes_are_refused_in_one_line_before_anything_starts(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(call("train.py", *SEARCH, "hydra.sweep.dir=sweep", *arguments))
    assert not list(tmp_path.glob("sweep/trials"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"direction": "up"}, "hydra.sweeper.direction=up"),
        ({"trials": 3}, "hydra.sweeper.trials: SearchSettings takes no such argument"),
        ({"sampler": {"_target_": "optuna.samplers.TPESampler", "seeds": 1}}, "hydra.sweeper.sampler.seeds"),
        ({"pruner": {"_target_": "optuna.pruners.Median"}}, "there is no such class"),
    ],
)
def test_settings_are_checked(given, words):
    parts = {key: {} for key in ("sampler", "pruner", "storage")}
    with pytest.raises(UserError, match=words):
        read_settings(parts | given)


def test_a_grid_has_as_many_trials_as_its_space_has_points():
    settings = SearchSettings(n_trials=None)
    assert settings.count(read_space({"a": "1,2", "b": "range(0, 3)"}, [])) == 6
    with pytest.raises(UserError, match="infinitely many"):
        settings.count(read_space({"a": "interval(0, 1)"}, []))


def test_the_test_set_is_not_searched_by():
    with pytest.raises(UserError, match="no honest score left"):
        check_metric("test/elbo", {})


def test_a_search_without_optuna_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = refusal(call("train.py", *SEARCH, f"hydra.sweep.dir={tmp_path}"))
    assert "pip install 'latentlab[search]'" in line


def test_the_plugin_costs_no_import_of_optuna():
    words = "import sys; from hydra.core.plugins import Plugins; Plugins.instance(); print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_search_trains_its_trials_and_reports_the_best(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = (*SEARCH, "hydra/sweeper/sampler=random", "data.batch_size=500", "hydra.sweeper.n_trials=1")
    done = call("train.py", *arguments, "hydra.sweep.dir=sweep")
    assert done.status == 0, done.err
    assert "1 finished" in done.out and "best: python train.py data=binarised_digits" in done.out
    assert (tmp_path / "sweep" / "best.yaml").exists()
    again = call("train.py", *arguments, "hydra.sweep.dir=sweep")
    assert again.status == 0 and "started" not in again.out and "1 done before" in again.out


class Cluster:
    """A launcher that trains whole batches, of which the job with seed=2 fails."""

    def __init__(self, folder):
        self.folder = folder
        self.batches = []

    def launch(self, job_overrides, initial_job_idx):
        self.batches.append(job_overrides)
        for words in job_overrides:
            place = self.folder / words[-1].partition("=")[2].strip("'")
            place.mkdir(parents=True)
            if "seed=2" not in words:
                (place / "summary.json").write_text('{"val/elbo": -90.0}')
        raise RuntimeError("job 2 has no output")


def test_a_batch_is_read_from_its_directories_whatever_its_launcher_says(tmp_path):
    jobs = [Job(tmp_path / "trials" / f"000{seed}", (f"seed={seed}",)) for seed in (1, 2)]
    cluster = Cluster(tmp_path)
    batches = Batches(cluster)
    done, failed = batches(jobs)
    assert done.summary == {"val/elbo": -90.0} and (failed.status, failed.reason) == (
        Status.FAILED,
        "job 2 has no output",
    )
    assert cluster.batches == [
        [["seed=1", "hydra.sweep.subdir='trials/0001'"], ["seed=2", "hydra.sweep.subdir='trials/0002'"]]
    ]
    assert batches(jobs[:1])[0].status is Status.BEFORE and len(cluster.batches) == 1
