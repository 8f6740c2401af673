"""`python train.py -m ...`: sweeps of stand-ins that take no time, and one real run."""

import csv
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from commands import ROOT, call, refusal
from fake_job import save
from fakes import begin, epochs, run, starts, wait_for
from rich.console import Console

from latentlab.errors import UserError
from latentlab.run.config import read_config
from latentlab.sweeps.jobs import directory
from latentlab.sweeps.jobs.directory import check_same
from latentlab.sweeps.jobs.job import Job
from latentlab.sweeps.jobs.sweep import CachedLoader

ALL = ["0", "1", "2", "3"]


def test_a_sweep_and_a_larger_one_in_its_directory(app, tmp_path):
    place = "hydra.sweep.dir=multirun/mine"
    done = run(app, "what=fine,diverge", "seed=1,2", "hydra.launcher.n_jobs=2", place)
    line = refusal(done)
    assert "2 of 4 jobs" in line and "multirun/mine/JOB/job.log" in line
    lines = done.out.splitlines()
    assert lines[:2] == ["4 jobs, 2 at a time", "sweep: multirun/mine"]
    assert sum(line.startswith("started ") for line in lines) == 4
    for words in (
        "what=fine seed=1",
        "-99.00",
        "-98.50 │ 0.71 │",
        "what=diverge seed=2: diverged: the bound is nan",
    ):
        assert words in done.out
    folder = tmp_path / "multirun" / "mine"
    names = {path.parent.name for path in folder.glob("*/summary.json")}
    assert names == {"seed-1_what-fine", "seed-2_what-fine"}

    more = run(app, "what=fine", "seed=1,2,3", place)
    assert (more.status, more.err) == (0, "")
    first, _, third = more.out.splitlines()[:3]
    assert first.endswith("2 finished before") and third.split() == ["started", "seed=3"]
    assert all(len(starts(folder / name)) == 1 for name in names)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["what"], row["seed"], row["status"]) for row in rows) == [
        *(("diverge", seed, "diverged") for seed in "12"),
        *(("fine", seed, "finished") for seed in "123"),
    ]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_sweep_resumes(app, tmp_path, signum, status):
    words = ("what=wait,fine", "seed=1")
    running = begin(app, *words)
    job = tmp_path / "multirun" / "seed-1_what-wait+fine" / "seed-1_what-wait"
    last = job / "checkpoints" / "last.ckpt"
    wait_for(last)
    running.signal(signum)
    done = running.finish()
    assert (done.status, done.err) == (status, "")
    assert "interrupted: the same command" in done.out
    assert "stopped with the sweep" in done.out and "what=fine: interrupted: not started" in done.out
    save(last, 1)
    done = run(app, *words)
    assert (done.status, done.err) == (0, "")
    assert "resumed     what=wait" in done.out and "started     what=fine" in done.out
    assert epochs(job) == ALL


def test_a_second_command_is_refused_until_the_first_is_killed(app, tmp_path):
    words = ("what=wait", "seed=1", "hydra.launcher.grace_seconds=0")
    running = begin(app, *words)
    job = tmp_path / "multirun" / "seed-1_what-wait" / "seed-1_what-wait"
    last = job / "checkpoints" / "last.ckpt"
    wait_for(last)
    assert "multirun/seed-1_what-wait: another command" in refusal(run(app, *words))
    running.signal(signal.SIGKILL)
    running.finish()
    save(last, 1)
    assert run(app, *words).status == 0
    assert epochs(job) == ALL


REFUSED = {
    "unknown key": ("sed=1,2", ["sed", "did you mean seed?"]),
    "unknown setting": ("hydra.launcher.n_job=2", ["hydra.launcher.n_job", "mean hydra.launcher.n_jobs"]),
    "no jobs at a time": ("hydra.launcher.n_jobs=0", ["hydra.launcher.n_jobs=0", "greater than 0"]),
    "no time": ("hydra.launcher.timeout_minutes=0", ["hydra.launcher.timeout_minutes=0", "greater than 0"]),
    "one device": ("hydra.launcher.devices=0", ["hydra.launcher.devices=0", "list"]),
    "twice": ("seed=1,1", ["seed-1", "two jobs"]),
    "not writable": ("seed=1,2 hydra.sweep.dir=file/sweep", ["file", "hydra.sweep.dir=DIR"]),
    "real: unknown option": ("model=vea,vae", ["model=vea", "did you mean vae?"]),
    "real: no option": ("model= seed=1,2", ["model="]),
    "real: one bad value": ("seed=1,abc", ["seed=abc", "integer"]),
    "real: a group that changes nothing": ("model=vae,autoencoder prior=mog", ["prior=mog", "model=autoencoder"]),
    "real: parts that do not fit together": ("prior=mog,categorical", ["CategoricalPrior", "model=categorical_vae"]),
    "real: one bad argument": ("model.latent_dim=2,0", ["model.latent_dim=0", "greater than 0"]),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_before_the_first_job(app, tmp_path, monkeypatch, request, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    script = ROOT / "train.py" if "real" in request.node.callspec.id else app
    monkeypatch.syspath_prepend(app.parent)
    line = refusal(call(str(script), "-m", *words.split()))
    assert [word for word in said if word not in line] == [], line
    assert not list(tmp_path.rglob("multirun.yaml")) and not list(tmp_path.rglob("job.json"))


@pytest.mark.parametrize(
    "found",
    [
        {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"},
        {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
    ],
    ids=["torchrun", "srun"],
)
def test_a_sweep_under_torchrun_or_srun_is_refused(app, tmp_path, monkeypatch, found):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(app.parent)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert "2 processes" in refusal(call(str(app), "-m", "seed=1,2"))
    assert not list(tmp_path.rglob("multirun.yaml"))


def test_a_job_is_composed_once(tmp_path):
    class Loader:
        calls = 0

        def load_sweep_config(self, config, overrides):
            self.calls += 1
            return {"overrides": overrides}

    loader = Loader()
    cached = CachedLoader(loader, tmp_path, Console(quiet=True).status(""))
    with cached.spinner:
        first, second = (cached.load_sweep_config({}, ["seed=1"]) for _ in range(2))
    assert first == second and first is not second and loader.calls == 1


def test_an_old_record_of_a_diverged_job_counts(tmp_path):
    (tmp_path / "job.json").write_text(
        '{"status": "diverged", "reason": "training diverged: nan", "seconds": 1.5}'
    )
    record = directory.read_record(tmp_path)
    assert (record.status, record.seconds) == ("diverged", 1.5)


REAL = (
    *("data=binarised_digits", "data.batch_size=200", "encoder.hidden=[16]", "logger=none"),
    *("trainer.max_epochs=8", "trainer.log_every_n_steps=2"),
)
SLOW = ("torch", "pytorch_lightning", "lightning", "torchmetrics", "matplotlib", "numpy", "scipy", "pydantic")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A real sweep of two seeds. The run of the first seed was stopped before."""
    home = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        last = home / "sweep" / "1" / "checkpoints" / "last.ckpt"
        threading.Thread(target=terminate_after, args=(last,)).start()
        assert call("train.py", *REAL, "seed=1", "hydra.run.dir=sweep/1").status == 143
        assert 0 < len(bounds(home / "sweep" / "1")) < 8
        patch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # prints each module that a job itself imports
        words = ("seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${seed}")
        done = call("train.py", "-m", *REAL, *words)
    assert (done.status, done.err) == (0, ""), done.out
    return home / "sweep", done.out


def test_a_real_run_that_was_stopped_is_resumed_by_a_sweep(swept):
    folder, printed = swept
    job = folder / "1"
    assert "resumed " in printed
    rows = bounds(job)
    assert [row["epoch"] for row in rows] == list("01234567")
    with (job / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/elbo"]]
    assert steps == sorted(set(steps))
    arguments = (f"ckpt_path={job}/checkpoints/best.ckpt", "figures.draw=false", "nll.samples=0")
    assert call("evaluate.py", *arguments).status == 0


def test_a_job_trains_as_a_single_run(swept, tmp_path):
    single, (folder, _) = tmp_path / "single", swept
    assert call("train.py", *REAL, "seed=2", "callbacks=none", f"hydra.run.dir={single}").status == 0
    assert scores(single) == scores(folder / "2") != scores(folder / "1")
    for name, value in weights(single).items():
        assert torch.equal(value, weights(folder / "2")[name]), name


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")
@pytest.mark.parametrize("seed", "12")
def test_a_forked_job_imports_nothing_slow(swept, seed):
    lines = (swept[0] / seed / "job.log").read_text().splitlines()
    imports = [line.split("|")[2].strip() for line in lines if "|" in line]
    assert imports and [name for name in imports if name.split(".")[0] in SLOW] == []


def scores(run: Path) -> dict[str, object]:
    summary = json.loads((run / "summary.json").read_text())
    return {name: value for name, value in summary.items() if not name.startswith("time/")}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def bounds(job: Path) -> list[dict[str, str]]:
    with (job / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["epoch"] and row["val/elbo"]]


def terminate_after(path: Path) -> None:
    """Send this process SIGTERM, as a sweep does with its jobs."""
    while not path.exists():
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_job_that_was_trained_for_longer_is_refused_with_the_remedy(small):
    config = read_config(small / "config.yaml")
    check_same(Job(small, (), config=config))
    config["trainer"]["max_epochs"] = 3
    with pytest.raises(UserError, match=r"trainer\.max_epochs=1, but this job has 3.*move that directory"):
        check_same(Job(small, (), config=config))
