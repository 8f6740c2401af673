"""The runner of jobs, with a job that takes no time."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from rich.console import Console

from latentlab.errors import UserError
from latentlab.sweeps.jobs import directory
from latentlab.sweeps.jobs.job import Job, Outcome, Status
from latentlab.sweeps.jobs.progress import Progress
from latentlab.sweeps.jobs.runner import Runner
from latentlab.sweeps.jobs.settings import Settings

SCRIPT = Path(__file__).parent / "fake_job.py"
COMMAND = (sys.executable, "-S", str(SCRIPT))


def make(folder: Path, what: str = "fine", seed: int = 0, **extra: object) -> Job:
    words = [f"what={what}", f"seed={seed}", *(f"{key}={value}" for key, value in extra.items())]
    return Job(folder / f"{what}{seed}", tuple(words), " ".join(words), {"what": what, "seed": seed})


def runner(**settings: object) -> Runner:
    settings = {"grace_seconds": 0.5, "n_jobs": 2, **settings}
    return Runner(Settings(**settings), COMMAND, "group", Progress(console=Console(quiet=True)))


def run(*jobs: Job, watch=None, **settings: object) -> list[Outcome]:
    with runner(**settings) as runs:
        return runs.run(jobs, watch)


def starts(job: Job) -> list[list[str]]:
    return [line.split() for line in (job.directory / "began").read_text().splitlines()]


def epochs(job: Job) -> list[str]:
    with (job.directory / "metrics.csv").open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size > 0):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_job_that_finishes(tmp_path):
    job = make(tmp_path, seed=3)
    [outcome] = run(job)
    assert (outcome.status, outcome.reason) == (Status.FINISHED, "")
    assert outcome.summary["test/elbo"] == -97.0 and outcome.seconds > 0
    record = directory.read_record(job.directory)
    assert (record.status, record.attempts, record.overrides) == ("finished", 1, ["what=fine", "seed=3"])
    assert "what=fine seed=3" in (job.directory / "job.log").read_text()


def test_outcomes_come_in_the_order_of_the_jobs(tmp_path):
    jobs = [make(tmp_path, seed=0, pause=0.1), make(tmp_path, seed=1), make(tmp_path, seed=2)]
    assert [outcome.job for outcome in run(*jobs)] == jobs


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        ("crash", Status.FAILED, "it is broken: diverged/x is missing"),
        ("nan", Status.DIVERGED, "training diverged: the bound is nan at epoch 2"),
        ("raise", Status.FAILED, "KeyError: 'key'"),
        ("early", Status.FAILED, "ended by signal 9 (perhaps there was no memory left)"),
        ("empty", Status.FAILED, "it ended without a summary.json"),
    ],
)
def test_a_job_that_fails_fails_alone(tmp_path, what, status, reason):
    failed, fine = run(make(tmp_path, what), make(tmp_path, "fine"))
    assert (failed.status, failed.reason) == (status, reason)
    assert failed.summary == {} and not failed.status.succeeded
    assert fine.status == Status.FINISHED
    assert directory.read_record(failed.job.directory).reason == reason


def test_a_job_that_hangs_is_killed_with_all_that_it_started(tmp_path):
    hung, fine = run(make(tmp_path, "hang"), make(tmp_path, "fine"), timeout_minutes=1 / 60)
    assert (hung.status, hung.reason) == (
        Status.TIMED_OUT,
        "stopped after 1 s (hydra.launcher.timeout_minutes)",
    )
    assert fine.status == Status.FINISHED
    pids = [int(pid) for pid in (hung.job.directory / "pids").read_text().split()]
    assert len(pids) == 2 and not any(map(alive, pids))


def test_what_is_finished_is_not_run_again(tmp_path):
    jobs = [make(tmp_path, seed=seed) for seed in (1, 2)]
    first, second = run(*jobs), run(*jobs, make(tmp_path, seed=3))
    assert [outcome.status for outcome in second] == [Status.BEFORE, Status.BEFORE, Status.FINISHED]
    assert [o.summary for o in second[:2]] == [o.summary for o in first]
    assert [o.seconds for o in second[:2]] == [round(o.seconds, 1) for o in first]
    assert all(len(starts(job)) == 1 for job in jobs)


def test_what_failed_goes_on_from_its_checkpoint(tmp_path):
    job = make(tmp_path, "once")
    assert run(job)[0].status == Status.FAILED
    assert epochs(job) == ["0", "1"]
    (tmp_path / "once0" / "checkpoints" / "last.ckpt").write_text("1")
    assert run(job)[0].status == Status.FINISHED
    assert epochs(job) == ["0", "1", "2", "3"]
    assert directory.read_record(job.directory).attempts == 2
    log = (job.directory / "job.log").read_text()
    assert log.count("\n-- ") == 1 and log.count("ckpt_path=") == 1 and "error: no luck" in log


def test_what_failed_without_a_checkpoint_begins_anew(tmp_path):
    job = make(tmp_path, "once")
    run(job)
    (job.directory / "checkpoints" / "last.ckpt").unlink()
    (job.directory / "notes.txt").write_text("mine")
    assert run(job)[0].status == Status.FINISHED
    assert epochs(job) == ["0", "1", "2", "3"]  # none of the first attempt
    assert (job.directory / "wandb_run_id.txt").exists() and (job.directory / "notes.txt").exists()


def test_what_failed_after_its_summary_is_tried_again_and_what_was_killed_then_is_not(tmp_path):
    late, killed = make(tmp_path, "late"), make(tmp_path, "fine")
    first, _ = run(late, killed)
    assert (first.status, first.reason) == (Status.FAILED, "the server is gone")
    directory.write_record(killed.directory, directory.Record(directory.RUNNING))
    again, left = run(late, killed)
    assert (again.status, left.status) == (Status.FINISHED, Status.BEFORE)


def test_a_summary_of_before_does_not_finish_what_is_tried_again(tmp_path):
    job = make(tmp_path, "late")
    run(job)
    with runner() as runs:
        runs.start(Job(job.directory, ("what=wait",)))
        assert not (job.directory / "summary.json").exists()
    assert directory.settled(job) is None


def test_the_run_of_another_config_is_refused(tmp_path):
    job = make(tmp_path)
    run(job)
    other = Job(job.directory, job.overrides, job.label, {**job.config, "lr": 1e-3, "ckpt_path": "x"})
    with (
        runner() as runs,
        pytest.raises(UserError, match=r"fine0 holds a run with lr=\(no such key\), where 0.001"),
    ):
        runs.check(other)
    with runner() as runs:
        runs.check(Job(job.directory, job.overrides, job.label, {**job.config, "ckpt_path": "x"}))


def test_so_many_run_at_a_time(tmp_path):
    jobs = [make(tmp_path, seed=seed, pause=0.1) for seed in range(5)]
    run(*jobs, n_jobs=2)
    begins = [(float(starts(job)[0][0]), 1) for job in jobs]
    ends = [(float((job.directory / "ended").read_text()), -1) for job in jobs]
    running = 0
    counts = [running := running + change for _, change in sorted(begins + ends)]
    assert max(counts) == 2


def test_a_job_is_watched_and_pruned(tmp_path):
    seen: list[str] = []

    def watch(job, rows):
        seen.extend(row["epoch"] for row in rows)
        return job.overrides[0] == "what=wait"

    pruned, fine = run(make(tmp_path, "wait"), make(tmp_path, pause=0.6), watch=watch)
    assert (pruned.status, fine.status) == (Status.PRUNED, Status.FINISHED)
    assert pruned.status.succeeded
    assert seen.count("0") == 2 and len(seen) == len(set(seen)) + 2  # each row of each job once
    again, _ = run(pruned.job, fine.job)
    assert again.status == Status.PRUNED and len(starts(pruned.job)) == 1


def test_jobs_are_asked_for_one_at_a_time(tmp_path):
    left = [make(tmp_path, seed=seed) for seed in range(4)]
    ended = []
    with runner(n_jobs=2) as runs:
        while left or runs.running:
            while left and runs.has_room(left[0]):
                runs.start(left.pop(0))
            assert len(runs.running) <= 2
            ended += runs.wait()
        assert runs.wait() == []
    assert {outcome.status for outcome in ended} == {Status.FINISHED} and len(ended) == 4


def test_leaving_stops_what_runs_and_the_next_goes_on(tmp_path):
    job = make(tmp_path, "wait")
    with pytest.raises(ZeroDivisionError), runner() as runs:
        runs.start(job)
        wait_for(job.directory / "metrics.csv")
        wait_for(job.directory / "checkpoints" / "last.ckpt")
        1 / 0  # noqa: B018
    [outcome] = runs.outcomes
    assert (outcome.status, outcome.reason) == (Status.INTERRUPTED, "stopped with the sweep")
    assert not alive(int(starts(job)[0][1]))


GPUS = {"accelerator": "gpu", "devices": 1}


def with_trainer(job: Job, trainer: dict) -> Job:
    return Job(job.directory, job.overrides, job.label, {**job.config, "trainer": trainer})


def test_gpus_are_handed_out_in_turn(tmp_path):
    jobs = [with_trainer(make(tmp_path, seed=seed, pause=0.05), GPUS) for seed in range(4)]
    both = with_trainer(make(tmp_path, seed=4), {**GPUS, "devices": "auto"})
    run(*jobs, both, n_jobs=3, devices=[0, "GPU-1"])
    given = [starts(job)[0][2] for job in jobs]
    assert given[:2] == ["0", "GPU-1"] and sorted(given[2:]) == ["0", "GPU-1"]
    assert sorted(starts(both)[0][2].split(",")) == ["0", "GPU-1"]


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({**GPUS, "devices": 3}, "trainer.devices=3, of the job .*: this sweep hands out 2 GPUs"),
        ({**GPUS, "devices": [1]}, r"trainer.devices=\[1\]: a sweep hands out GPUs"),
    ],
)
def test_gpus_that_there_are_not(tmp_path, trainer, words):
    with runner(devices=[0, 1]) as runs, pytest.raises(UserError, match=words):
        runs.check(with_trainer(make(tmp_path), trainer))


def test_environment_of_a_job(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    job = make(tmp_path)
    run(job, n_jobs=10_000)
    found = json.loads((job.directory / "environment.json").read_text())
    assert (found["OMP_NUM_THREADS"], found["WANDB_RUN_GROUP"]) == ("1", "group")
    assert "SLURM_NTASKS" not in found  # it is no task of the sweep's srun
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    job = make(tmp_path, seed=1)
    run(job, n_jobs=10_000)
    found = json.loads((job.directory / "environment.json").read_text())
    assert (found["OMP_NUM_THREADS"], found["WANDB_RUN_GROUP"]) == ("7", "mine")


def test_two_runners_do_not_run_one_job(tmp_path):
    job = make(tmp_path, "wait")
    with runner() as runs:
        runs.start(job)
        wait_for(job.directory / "metrics.csv")
        with pytest.raises(UserError, match="a job of another sweep is running there"):
            directory.lock(job.directory, patience=0.2)
        assert len(starts(job)) == 1


KILLED = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_runner import make, run
    run(make(Path({folder!r}), "hang"), make(Path({folder!r}), "wait"))
"""


def test_a_sweep_that_is_killed_leaves_nothing_running(tmp_path):
    code = textwrap.dedent(KILLED).format(tests=str(SCRIPT.parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(tmp_path / "hang0" / "pids")
    wait_for(tmp_path / "wait0" / "checkpoints" / "last.ckpt")
    process.kill()
    process.wait()
    hung, waits = make(tmp_path, "hang"), make(tmp_path, "wait")
    # The next command waits for what is about to end.
    os.close(directory.lock(hung.directory, patience=10))
    os.close(directory.lock(waits.directory, patience=10))
    pids = [*(tmp_path / "hang0" / "pids").read_text().split(), starts(waits)[0][1]]
    assert not any(alive(int(pid)) for pid in pids)
    assert directory.read_record(waits.directory).status == "running"
    (tmp_path / "wait0" / "checkpoints" / "last.ckpt").write_text("1")
    assert run(waits)[0].status == Status.FINISHED
    assert epochs(waits) == ["0", "1", "2", "3"]


def test_a_guard_that_is_killed_takes_its_job_along(tmp_path):
    if sys.platform != "linux":
        pytest.skip("of Linux")
    job = make(tmp_path, "wait")
    with runner() as runs:
        runs.start(job)
        wait_for(job.directory / "metrics.csv")
        os.kill(runs._attempts[job]._guard.pid, signal.SIGKILL)
        [outcome] = runs.wait()
        assert outcome.status == Status.FAILED and "signal 9" in outcome.reason
    os.close(directory.lock(job.directory, patience=10))
    assert not alive(int(starts(job)[0][1]))
