"""`python train.py -m ...` as users run it: with runs that take no time, and once with real ones."""

import csv
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import QUICK, ROOT, Finished, call, environment, refusal
from test_runner import epochs, starts, wait_for

from latentlab.sweeps.jobs.job import Job

CONFIG = """
defaults:
  - _self_
  - override hydra/launcher: jobs
  - override hydra/hydra_logging: none
  - override hydra/job_logging: none
what: fine
seed: 0
pause: 0
ckpt_path: null
hydra:
  sweep:
    dir: multirun/${sweep_name:}
    subdir: ${job_name:${hydra.overrides.task}}
"""


@pytest.fixture
def app(tmp_path):
    """The stand-in of train.py, with the launcher's real options."""
    place = tmp_path / "app"
    shutil.copytree(ROOT / "conf" / "hydra" / "launcher", place / "conf" / "hydra" / "launcher")
    (place / "conf" / "train.yaml").write_text(CONFIG)
    for name in ("fake_app.py", "fake_job.py"):
        shutil.copy(Path(__file__).parent / name, place)
    return place / "fake_app.py"


def begin(app: Path, *words: str) -> subprocess.Popen:
    home = app.parent.parent
    return subprocess.Popen(
        [sys.executable, str(app), "-m", *words],
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> Finished:
    out, err = process.communicate(timeout=60)
    return Finished(process.returncode, out, err)


def run(app: Path, *words: str) -> Finished:
    return end(begin(app, *words))


def test_a_sweep_and_a_larger_one_in_its_directory(app, tmp_path):
    place = "hydra.sweep.dir=multirun/mine"
    done = run(app, "what=fine,nan", "seed=1,2", "hydra.launcher.n_jobs=2", place)
    assert done.status == 1
    assert done.err == (
        "error: 2 of 4 jobs did not succeed: multirun/mine/JOB/job.log holds their output, "
        "and the same command tries them again\n"
    )
    lines = done.out.splitlines()
    assert lines[0] == "4 jobs, 2 at a time, in multirun/mine"
    assert sum(line.startswith("started ") for line in lines) == 4
    assert "what=fine seed=1" in done.out and "-99.00" in done.out
    assert "-98.50 +- 0.50" in done.out
    assert "what=nan seed=2: diverged: training diverged: the bound is nan" in done.out
    folder = tmp_path / "multirun" / "mine"
    names = {path.parent.name for path in folder.glob("*/summary.json")}
    assert names == {"seed-1_what-fine", "seed-2_what-fine"}

    more = run(app, "what=fine", "seed=1,2,3", place)
    assert (more.status, more.err) == (0, "")
    assert more.out.startswith(
        "3 jobs, 1 at a time, in multirun/mine, 2 finished before\nstarted     seed=3\n"
    )
    assert all(len(starts(Job(folder / name, ()))) == 1 for name in names)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["what"], row["seed"], row["status"]) for row in rows) == [
        *(("fine", seed, "finished") for seed in "123"),
        *(("nan", seed, "diverged") for seed in "12"),
    ]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_that_is_stopped_goes_on(app, tmp_path, signum, status):
    words = ("what=wait,fine", "seed=1")
    process = begin(app, *words)
    job = tmp_path / "multirun" / "seed-1_what-wait+fine" / "seed-1_what-wait"
    wait_for(job / "checkpoints" / "last.ckpt")
    process.send_signal(signum)
    done = end(process)
    assert (done.status, done.err) == (status, "")
    assert "interrupted: the same command goes on" in done.out
    assert "stopped with the sweep" in done.out and "what=fine: interrupted: not started" in done.out
    (job / "checkpoints" / "last.ckpt").write_text("1")
    done = run(app, *words)
    assert (done.status, done.err) == (0, "")
    assert "resumed     what=wait" in done.out and "started     what=fine" in done.out
    assert epochs(Job(job, ())) == ["0", "1", "2", "3"]


def test_two_commands_at_once_and_one_after_a_kill(app, tmp_path):
    words = ("what=wait", "seed=1", "hydra.launcher.grace_seconds=0")
    process = begin(app, *words)
    job = tmp_path / "multirun" / "seed-1_what-wait" / "seed-1_what-wait"
    wait_for(job / "checkpoints" / "last.ckpt")
    line = refusal(run(app, *words))
    assert line.endswith(
        "multirun/seed-1_what-wait: another command runs this sweep; wait for it, or stop it"
    )
    process.kill()
    process.communicate()
    (job / "checkpoints" / "last.ckpt").write_text("1")
    assert run(app, *words).status == 0
    assert epochs(Job(job, ())) == ["0", "1", "2", "3"]


REFUSED = {
    "unknown key": ("sed=1,2", ["sed", "did you mean seed?"]),
    "unknown setting": (
        "hydra.launcher.n_job=2",
        ["hydra.launcher.n_job", "did you mean hydra.launcher.n_jobs"],
    ),
    "no jobs at a time": ("hydra.launcher.n_jobs=0", ["hydra.launcher.n_jobs=0", "greater than 0"]),
    "no time": ("hydra.launcher.timeout_minutes=0", ["hydra.launcher.timeout_minutes=0", "greater than 0"]),
    "one device": ("hydra.launcher.devices=0", ["hydra.launcher.devices=0", "list"]),
    "twice": ("seed=1,1", ["seed-1", "two jobs"]),
    "not writable": ("seed=1,2 hydra.sweep.dir=file/sweep", ["file", "hydra.sweep.dir=DIR"]),
    "in a real sweep: unknown option": ("model=vea,vae", ["model=vea", "did you mean vae?"]),
    "in a real sweep: no option": ("model= seed=1,2", ["model=: no such option", "model has"]),
    "in a real sweep: unknown key": ("model=vae,ppca optimizer.lrr=1,2", ["optimizer.lrr", "optimizer.lr?"]),
    "in a real sweep: one bad value": ("seed=1,abc", ["seed=abc", "integer"]),
    "in a real sweep: a group that changes nothing": (
        "model=vae,autoencoder prior=mog",
        ["prior=mog", "model=autoencoder has no prior"],
    ),
    "in a real sweep: parts that do not go together": (
        "prior=mog,categorical",
        ["CategoricalPrior", "model=categorical_vae"],
    ),
    "in a real sweep: one bad argument": ("model.latent_dim=2,0", ["model.latent_dim=0", "greater than 0"]),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_before_anything_starts(app, tmp_path, monkeypatch, request, words, said):
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
def test_a_sweep_is_started_once(app, tmp_path, monkeypatch, found):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(app.parent)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    line = refusal(call(str(app), "-m", "seed=1,2"))
    assert "has started 2 processes, each of which would run the whole sweep" in line
    assert not list(tmp_path.rglob("multirun.yaml"))


def test_a_real_sweep_that_is_stopped_goes_on_and_can_be_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("-m", *QUICK, "seed=1", "trainer.max_epochs=8", "hydra.sweep.dir=sweep")
    interrupt_at("sweep/*/checkpoints/last.ckpt", tmp_path, monkeypatch)
    stopped = call("train.py", *words)
    assert (stopped.status, stopped.err) == (130, ""), stopped.out

    again = call("train.py", *words)
    assert (again.status, again.err) == (0, ""), again.out
    assert "resumed " in again.out
    [best] = (tmp_path / "sweep").glob("*/checkpoints/best.ckpt")
    with (best.parent.parent / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows if row["epoch"] and row["val/elbo"]] == list("01234567")
    steps = [int(row["step"]) for row in rows if row["train/elbo"]]
    assert steps == sorted(set(steps))
    arguments = (f"ckpt_path={best}", "figures.draw=false", "nll.samples=0")  # no quotes are needed
    assert call("evaluate.py", *arguments).status == 0


def interrupt_at(pattern: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, as the sweep that waits in this process sees it, once there is such a file."""
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        if list(folder.glob(pattern)):
            monkeypatch.setattr(time, "sleep", sleep)
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", interrupted)
