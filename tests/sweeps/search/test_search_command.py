"""The search from the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import QUICK, call, refusal
from fakes import run, starts
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from latentlab.cli.command import one_line_errors
from latentlab.errors import Diverged
from latentlab.sweeps.jobs.job import Job, Status
from latentlab.sweeps.search.batches import Batches, RecordedTask

SEARCH = ("-m", "sweep=optuna", *QUICK)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: input should be greater than 0"),
        (["hydra/sweeper/storage=server"], "hydra.sweeper.storage.url is needed"),
        (["data.val_size=0"], "data.val_size=0"),
        (["trainer.devices=0"], "trainer.devices=0"),
        (["hydra.sweeper.storage.path=/dev/null/x"], "hydra.sweeper.storage: "),
        (["optimizer.lrr=interval(0,1)"], "optimizer.lrr: no such key or group; did you mean optimizer.lr?"),
        (["data.batch_size=choice(0,10)"], "data.batch_size=0: input should be greater than 0"),
    ],
)
def test_mistakes_are_one_line_before_the_first_trial(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(call("train.py", *SEARCH, "hydra.sweep.dir=sweep", *arguments))
    assert not list(tmp_path.glob("sweep/trials"))


def test_a_search_without_optuna_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = refusal(call("train.py", *SEARCH, f"hydra.sweep.dir={tmp_path}"))
    assert "pip install 'latentlab[search]'" in line


def test_the_plugins_are_light():
    words = "from hydra.core.plugins import Plugins; Plugins.instance()"
    words = f"{words}; import sys; print({{'optuna', 'torch'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_search_runs_each_trial_once_and_a_diverged_trial_counts(app, tmp_path):
    words = ("hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=null")
    words = (*words, "what=fine,diverge", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep")
    done = run(app, *words)
    assert (done.status, done.err) == (0, ""), done.out
    assert "1 finished, 1 diverged" in done.out and "best: python train.py what=fine" in done.out
    assert (tmp_path / "sweep" / "best.yaml").exists()
    again = run(app, *words)
    assert again.status == 0 and "started" not in again.out and "2 done before" in again.out
    assert [len(starts(place)) for place in (tmp_path / "sweep" / "trials").iterdir()] == [1, 1]


def test_a_search_through_a_launcher_of_batches_trains_real_trials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (*SEARCH, "hydra/launcher=basic", "hydra/sweeper/sampler=random", "data.batch_size=500")
    words = (*words, "hydra.sweeper.n_trials=1", "hydra.sweep.dir=sweep", "trainer.log_every_n_steps=1")
    done = call("train.py", *words)
    assert done.status == 0, done.err
    assert "1 finished" in done.out and "best: python train.py data=binarised_digits" in done.out
    again = call("train.py", *words)
    assert again.status == 0 and "1 done before" in again.out and "epoch 1" not in again.out


class Cluster:
    """A launcher of batches. The job with seed=2 fails, the job with seed=3 diverges."""

    def __init__(self, folder):
        self.folder = folder
        self.batches = []

    def launch(self, job_overrides, initial_job_idx):
        self.batches.append(job_overrides)
        for words in job_overrides:
            place = self.folder / words[-1].partition("=")[2].strip("'")
            place.mkdir(parents=True)
            if "seed=1" in words:
                (place / "summary.json").write_text('{"val/elbo": -90.0}')
            if "seed=3" in words:
                diverge(place)
        raise RuntimeError("job 2 has no output")


@one_line_errors()
def task(config):
    raise Diverged("the bound is nan at epoch 2")


def diverge(place: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"runtime": {"output_dir": str(place)}}))
        RecordedTask(task)(None)


def test_the_outcomes_of_a_batch_are_read_from_its_directories(tmp_path):
    jobs = [Job(tmp_path / "trials" / f"000{seed}", (f"seed={seed}",)) for seed in (1, 2, 3)]
    cluster = Cluster(tmp_path)
    batches = Batches(cluster)
    done, failed, diverged = batches(jobs)
    assert done.summary == {"val/elbo": -90.0}
    assert (failed.status, failed.reason) == (Status.FAILED, "job 2 has no output")
    assert (diverged.status, diverged.reason) == (Status.DIVERGED, "the bound is nan at epoch 2")
    assert cluster.batches == [
        [[f"seed={seed}", f"hydra.sweep.subdir='trials/000{seed}'"] for seed in (1, 2, 3)]
    ]
    assert batches(jobs[:1])[0].status is Status.BEFORE and len(cluster.batches) == 1
