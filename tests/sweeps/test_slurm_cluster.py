"""Sweeps on a real SLURM of three nodes (make test-cluster)."""

import socket
import subprocess

import pytest
from fakes import begin, epochs, run, starts, wait_for
from slurm_cluster import Cluster, missing

from latentlab.sweeps.jobs.slurm import job_name

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"not installed (slurm-wlm, munge): {', '.join(missing())}"),
]
SLURM = ("hydra/launcher=slurm", "hydra.launcher.timeout_minutes=10", "hydra.sweep.dir=sweep")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), port)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def app(app, cluster, monkeypatch):
    """Let the commands of a test find the cluster."""
    monkeypatch.setenv("PATH", cluster.env["PATH"])
    text = app.read_text()
    app.write_text(f"import os\nos.environ['SLURM_CONF'] = {cluster.env['SLURM_CONF']!r}\n{text}")
    return app


def test_a_sweep_ends_with_its_table_and_skips_what_is_finished(app, tmp_path):
    done = run(app, *SLURM, "seed=1,2,3,4")
    assert done.status == 0, done.out + done.err
    assert "over seeds" in done.out and len(list((tmp_path / "sweep").glob("*/ended"))) == 4
    assert "4 finished before" in run(app, *SLURM, "seed=1,2,3,4").out


def test_a_job_goes_on_after_its_node_died(app, tmp_path, cluster):
    sweep = begin(app, *SLURM, "seed=1", "pause=3")
    began = tmp_path / "sweep" / "pause-3_seed-1" / "began"
    wait_for(began)
    wait_for(began.parent / "checkpoints" / "last.ckpt")
    [node] = cluster.run("squeue", "-h", "-t", "R", "-o", "%N").split()
    cluster.kill_node(node)
    done = sweep.finish()
    cluster.run("slurmd", "-N", node)
    assert done.status == 0, done.out + done.err
    assert len(starts(began.parent)) == 2 and epochs(began.parent)[-1] == "3"


def test_a_preempted_job_resumes(app, tmp_path, cluster):
    sweep = begin(app, *SLURM, "seed=1", "pause=3")
    place = tmp_path / "sweep" / "pause-3_seed-1"
    wait_for(place / "checkpoints" / "last.ckpt")
    [node] = cluster.run("squeue", "-h", "-t", "R", "-o", "%N").split()
    cluster.run(
        "sbatch", "-p", "urgent", "-w", node, "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"
    )
    done = sweep.finish()
    assert done.status == 0, done.out + done.err
    assert len(starts(place)) == 2 and "resumed" not in done.out


def test_a_job_out_of_time_saves_and_resumes(app, tmp_path):
    # SLURM sends the signal up to a minute too early: after 30 to 90 of 120 seconds.
    limits = ("hydra.launcher.timeout_minutes=2", "hydra.launcher.slurm.save_seconds=30")
    done = begin(app, *SLURM, *limits, "seed=1", "pause=25").finish(timeout=500)
    assert done.status == 0, done.out + done.err
    assert len(starts(tmp_path / "sweep" / "pause-25_seed-1")) > 1


def test_a_cancelled_job_fails_alone(app, tmp_path, cluster):
    sweep = begin(app, *SLURM, "seed=1,2", "pause=3")
    place = tmp_path / "sweep" / "pause-3_seed-2"
    wait_for(place / "began")
    number = cluster.run("squeue", "-h", "-o", "%A", "-n", job_name(place)).strip()
    cluster.run("scancel", number)
    done = sweep.finish()
    assert done.status == 1 and "CANCELLED" in done.out and "1 of 2 jobs" in done.err


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("hydra.launcher.slurm.cpus_per_task=64", "configuration is not available|PartitionConfig"),
        ("hydra.launcher.slurm.partition=nope", "partition"),
        ("hydra.launcher.timeout_minutes=9999", "PartitionTimeLimit|PartitionConfig"),
    ],
)
def test_a_request_that_no_node_fits_fails_at_once(app, word, reason):
    done = run(app, *SLURM, word, "seed=1")
    assert done.status == 1 and any(each in done.out for each in reason.split("|")), done.out


def test_no_controller_is_one_line(app, cluster, tmp_path):
    conf = tmp_path / "slurm.conf"
    text = (cluster.home / "slurm.conf").read_text()
    conf.write_text(text.replace("SlurmctldPort=", "MessageTimeout=5\nSlurmctldPort=1"))
    app.write_text(app.read_text().replace(cluster.env["SLURM_CONF"], str(conf)))
    done = run(app, *SLURM, "seed=1")
    assert done.status == 1 and "Unable to contact slurm controller" in done.out


def test_the_job_script_saves_before_the_time_limit(cluster, tmp_path):
    """`jobs/slurm.sh` with a stand-in for Python, which notes the signal that it gets."""
    from commands import ROOT

    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    (tmp_path / "python").write_text(
        "#!/usr/bin/env bash\ntrap 'echo saved >> saved; exit 143' TERM\n"
        "[ -f saved ] && { echo resumed >> saved; exit 0; }\nfor i in {1..600}; do sleep 0.1; done\n"
    )
    (tmp_path / "python").chmod(0o755)
    limits = ("--cpus-per-task=1", "--mem=100M", "--gres=none", "--time=1", "--signal=B:USR1@50")
    subprocess.run(
        ["sbatch", "--wait", *limits, f"--chdir={tmp_path}", str(ROOT / "jobs" / "slurm.sh")],
        env={**cluster.env, "PROJECT": str(tmp_path), "PYTHON": str(tmp_path / "python")},
        check=True,
        timeout=240,
        capture_output=True,
    )
    cluster.wait(lambda: (tmp_path / "saved").read_text() == "saved\nresumed\n", 60)
