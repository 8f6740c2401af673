"""Sweeps whose jobs are jobs of SLURM, with a stand-in for its commands."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import begin, epochs, run, starts, wait_for

from latentlab.sweeps.jobs.slurm import Request, Slurm, SlurmJob

HERE = Path(__file__).parent
SLURM = ("hydra/launcher=slurm", "hydra.sweep.dir=sweep")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put the stand-ins on the path, and return their folder."""
    home = tmp_path / "slurm"
    home.mkdir()
    text = (HERE.parent / "fake_slurm.py").read_text().replace("/usr/bin/env python3", sys.executable)
    for name in ("sbatch", "squeue", "scancel", "srun"):
        (home / name).write_text(text)
        (home / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    return home


def test_a_sweep_prints_its_table_and_skips_what_is_finished(app, tmp_path, slurm):
    done = run(app, *SLURM, "seed=1,2")
    assert done.status == 0, done.err
    assert "submitted   seed=1" in done.out and "finished" in done.out and "over seeds" in done.out
    assert "2 finished before" in run(app, *SLURM, "seed=1,2").out
    assert len(list(slurm.glob("*.job"))) == 2


def test_a_job_that_fails_gives_its_reason_and_resumes_later(app, tmp_path, slurm):
    done = run(app, *SLURM, "seed=1", "what=crash")
    assert done.status == 1 and "diverged/x is missing" in done.out
    again = run(app, *SLURM, "seed=1", "what=crash")
    assert "resumed" in again.out
    [began] = (tmp_path / "sweep").glob("*/began")
    assert len(starts(began.parent)) == 2


@pytest.mark.parametrize("reason", ["PartitionConfig", "BadConstraints"])
def test_a_job_that_can_never_start_fails_with_the_reason(app, slurm, reason):
    (slurm / "reason").write_text(reason)
    done = run(app, *SLURM, "seed=1")
    assert done.status == 1 and reason in done.out and "hydra.launcher.slurm" in done.out
    assert (slurm / "1.cancelled").exists()


def test_a_job_waits_no_longer_than_allowed_and_says_why(app, slurm):
    (slurm / "reason").write_text("ReqNodeNotAvail")
    done = run(app, *SLURM, "seed=1", "hydra.launcher.slurm.queue_hours=0.001")
    assert done.status == 1 and "waits: ReqNodeNotAvail" in done.out and "queue_hours" in done.out


def test_a_submission_that_is_refused_fails_with_the_words_of_slurm(app, slurm):
    (slurm / "refuse").write_text("invalid partition specified: nope")
    done = run(app, *SLURM, "seed=1", "hydra.launcher.slurm.partition=nope")
    assert done.status == 1 and "invalid partition specified: nope" in done.out
    (slurm / "silent").touch()
    assert "Unable to contact slurm controller" in run(app, *SLURM, "seed=1").out


def test_jobs_go_on_without_the_sweep_and_the_same_command_watches_them(app, tmp_path, slurm):
    words = (*SLURM, "seed=1", "pause=1")
    sweep = begin(app, *words)
    wait_for(tmp_path / "sweep" / "pause-1_seed-1" / "slurm.json")
    sweep.signal(signal.SIGKILL)
    sweep.finish()
    done = run(app, *words)
    assert done.status == 0, done.err
    assert len(list(slurm.glob("*.job"))) == 1
    [began] = (tmp_path / "sweep").glob("*/began")
    assert len(starts(began.parent)) == 1 and epochs(began.parent) == ["0", "1", "2", "3"]


def test_an_interrupted_sweep_lets_its_jobs_save(app, tmp_path, slurm):
    (slurm / "stubborn").touch()  # the first job cannot be cancelled, and is the last to end
    sweep = begin(app, *SLURM, "seed=1,2", "pause=1")
    wait_for(tmp_path / "sweep" / "pause-1_seed-2" / "began")
    sweep.signal(signal.SIGINT)
    done = sweep.finish()
    assert done.status == 130 and "interrupted" in done.out
    assert (tmp_path / "sweep" / "pause-1_seed-2" / "slurm.status").read_text() == "143\n"


@pytest.mark.parametrize("text", ['{"job": 1}', '{"job": Infinity}', '{"job": true}', "[]", "{"])
def test_the_number_of_another_job_is_not_taken_over(slurm, tmp_path, text):
    subprocess.run(
        [slurm / "sbatch", "--job-name=other", f"--output={tmp_path / 'log'}", "/dev/null"], check=True
    )
    (tmp_path / "slurm.json").write_text(text)
    assert Slurm(Request(), None, {}, print).rejoin(tmp_path, 0, 1.0) is None


@pytest.mark.parametrize("content", [b"\xb2", "\u00b2".encode(), b"1" * 200, b""])
def test_a_damaged_status_is_a_failure(slurm, tmp_path, content):
    (tmp_path / "slurm.status").write_bytes(content)
    job = SlurmJob(1, tmp_path, Slurm(Request(), None, {}, print), 1.0, os.dup(0))
    assert job.poll() == 1
    job.close()


@pytest.mark.parametrize(("ends", "queued"), [("exit 0", False), ("exit 143", True)])
def test_a_job_that_finishes_before_its_limit_is_not_queued_again(slurm, tmp_path, ends, queued):
    words = ["bash", "-c", f"trap '{ends}' TERM; echo $$ > {tmp_path}/pid; sleep 30 & wait"]
    (tmp_path / "job.sh").write_text(Slurm(Request(), None, {}, print).script(words, tmp_path))
    (slurm / "scontrol").write_text(f"#!/bin/sh\ntouch {tmp_path}/queued\n")
    (slurm / "scancel").write_text(f"#!/bin/sh\nkill -TERM $(cat {tmp_path}/pid)\n")
    for name in ("scontrol", "scancel"):
        (slurm / name).chmod(0o755)
    job = subprocess.Popen(["bash", tmp_path / "job.sh"], env={**os.environ, "SLURM_JOB_ID": "1"})
    wait_for(tmp_path / "pid")
    job.send_signal(signal.SIGUSR1)
    job.wait(timeout=20)
    assert (tmp_path / "queued").exists() == queued
    assert (tmp_path / "slurm.status").exists() != queued


@pytest.mark.parametrize(
    ("request_", "minutes", "words"),
    [
        (Request(), None, ["--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1"]),
        (
            Request(nodes=2, tasks_per_node=4, gpus_per_node=4),
            90,
            ["--nodes=2", "--gpus-per-node=4", "--time=90"],
        ),
        (Request(partition="gpu", mem_gb=1.5, options=["--exclusive"]), None, ["--mem=1536M", "--exclusive"]),
    ],
)
def test_sbatch_is_asked_for(request_, minutes, words):
    assert set(words) <= set(request_.words(minutes))


def test_the_script_of_a_job_is_bash(tmp_path):
    script = Slurm(Request(setup=["module load cuda"]), None, {}, print).script(["echo", "a b"], tmp_path)
    (tmp_path / "job.sh").write_text(script)
    assert os.system(f"bash -n {tmp_path / 'job.sh'}") == 0
    assert "srun echo 'a b'" in script and "module load cuda" in script
