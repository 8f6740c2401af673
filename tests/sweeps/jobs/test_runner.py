"""The runner of jobs, with jobs that take no time."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from fake_job import save
from fakes import epochs, starts, wait_for
from rich.console import Console

from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.sweeps.jobs import directory
from latentlab.sweeps.jobs.attempt import Attempt
from latentlab.sweeps.jobs.job import Job, Outcome, Settings, Status
from latentlab.sweeps.jobs.report import SweepProgress
from latentlab.sweeps.jobs.runner import Runner, forked

SCRIPT = Path(__file__).parents[1] / "fake_job.py"
COMMAND = (sys.executable, "-S", str(SCRIPT))
ALL = ["0", "1", "2", "3"]


def make(folder: Path, what: str = "fine", seed: int = 0, **extra: object) -> Job:
    words = [f"what={what}", f"seed={seed}", *(f"{key}={value}" for key, value in extra.items())]
    return Job(folder / f"{what}{seed}", tuple(words), " ".join(words), {"what": what, "seed": seed})


STARTS = ["spawn"] if sys.platform == "darwin" else ["fork", "spawn"]
both = pytest.mark.parametrize("start", STARTS)


def runner(preload: tuple[str, ...] = (), **settings: object) -> Runner:
    chosen = Settings(**{"grace_seconds": 0.5, "n_jobs": 2, "start": STARTS[0], **settings})
    fork = forked(chosen, COMMAND, "group", preload)
    return Runner(chosen, COMMAND, "group", SweepProgress(console=Console(quiet=True)), fork)


def run(*jobs: Job, watch=None, **settings: object) -> list[Outcome]:
    with runner(**settings) as runs:
        return runs.run(jobs, watch)


def last(job: Job) -> Path:
    return job.directory / "checkpoints" / "last.ckpt"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@both
def test_a_job_that_finishes(tmp_path, start):
    job = make(tmp_path, seed=3)
    [outcome] = run(job, start=start)
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
        ("crash", Status.FAILED, "training diverged/x is missing"),  # an exit status decides, not these words
        ("diverge", Status.DIVERGED, "the bound is nan at epoch 2"),
        ("raise", Status.FAILED, "KeyError: 'key'"),
        ("early", Status.FAILED, "signal 9"),
        ("empty", Status.FAILED, "summary.json"),
    ],
)
@both
def test_a_job_that_fails_fails_alone(tmp_path, what, status, reason, start):
    failed, fine = run(make(tmp_path, what), make(tmp_path, "fine"), start=start)
    assert failed.status == status and reason in failed.reason
    assert failed.summary == {} and not failed.status.succeeded
    assert fine.status == Status.FINISHED
    assert directory.read_record(failed.job.directory).reason == failed.reason


@both
def test_a_job_that_hangs_is_killed_with_its_children(tmp_path, start):
    hung, fine = run(make(tmp_path, "hang"), make(tmp_path, "fine"), timeout_minutes=1 / 60, start=start)
    assert hung.status == Status.TIMED_OUT and "hydra.launcher.timeout_minutes" in hung.reason
    assert fine.status == Status.FINISHED
    pids = [int(pid) for pid in (hung.job.directory / "pids").read_text().split()]
    assert len(pids) == 2 and not any(map(alive, pids))


def test_a_finished_job_is_not_run_again(tmp_path):
    jobs = [make(tmp_path, seed=seed) for seed in (1, 2)]
    first, second = run(*jobs), run(*jobs, make(tmp_path, seed=3))
    assert [outcome.status for outcome in second] == [Status.BEFORE, Status.BEFORE, Status.FINISHED]
    assert [o.summary for o in second[:2]] == [o.summary for o in first]
    assert [o.seconds for o in second[:2]] == [round(o.seconds, 1) for o in first]
    assert all(len(starts(job.directory)) == 1 for job in jobs)


def test_a_failed_job_resumes_from_its_checkpoint(tmp_path):
    job = make(tmp_path, "once")
    assert run(job)[0].status == Status.FAILED
    assert epochs(job.directory) == ["0", "1"]
    save(last(job), 1)
    assert run(job)[0].status == Status.FINISHED
    assert epochs(job.directory) == ALL
    assert directory.read_record(job.directory).attempts == 2
    log = (job.directory / "job.log").read_text()
    assert log.count("\n-- ") == 1 and log.count("ckpt_path=") == 1 and "error: no luck" in log


def test_a_failed_job_without_a_checkpoint_starts_again(tmp_path):
    job = make(tmp_path, "once")
    run(job)
    last(job).unlink()
    (job.directory / "notes.txt").write_text("mine")
    assert run(job)[0].status == Status.FINISHED
    assert epochs(job.directory) == ALL  # no row of the first attempt
    assert (job.directory / "wandb_run_id.txt").exists() and (job.directory / "notes.txt").exists()


@pytest.mark.parametrize("keeps_best", [True, False])
@pytest.mark.parametrize("size", [0, 50])
def test_cut_checkpoint_is_passed_over(tmp_path, caplog, size, keeps_best):
    job = make(tmp_path, "once")
    run(job)
    best = RunDirectory(job.directory).best_checkpoint
    if keeps_best:
        save(best, 1)
    last(job).write_bytes(last(job).read_bytes()[:size])
    assert run(job)[0].status == Status.FINISHED
    assert epochs(job.directory) == ALL
    assert [record.getMessage() for record in caplog.records] == [
        f"{last(job)} is damaged and is passed over"
    ]
    log = (job.directory / "job.log").read_text()
    assert log.count(str(best)) == log.count("ckpt_path=") == keeps_best


@pytest.mark.parametrize("name", ["job.json", "summary.json"])
def test_empty_or_cut_record_does_not_stop_a_sweep(tmp_path, caplog, name):
    job = make(tmp_path)
    run(job)
    path = job.directory / name
    whole = path.read_text()
    for text in ("", whole[: len(whole) // 2]):
        path.write_text(text)
        assert run(job)[0].status in (Status.FINISHED, Status.BEFORE)
        assert directory.read_summary(job.directory)["test/elbo"] == -100.0
    assert caplog.messages == [f"{path} is damaged and is passed over"]


def test_a_failure_after_the_summary_is_tried_again_but_not_a_kill(tmp_path):
    late, killed = make(tmp_path, "late"), make(tmp_path, "fine")
    first, _ = run(late, killed)
    assert (first.status, first.reason) == (Status.FAILED, "the server is gone")
    directory.write_record(killed.directory, directory.Record(directory.RUNNING))
    again, left = run(late, killed)
    assert (again.status, left.status) == (Status.FINISHED, Status.BEFORE)


def test_an_old_summary_does_not_finish_a_new_attempt(tmp_path, monkeypatch):
    job = make(tmp_path, "late")
    run(job)
    start, there = Attempt._start, []

    def spy(attempt, *arguments):
        there.append((job.directory / "summary.json").exists())
        return start(attempt, *arguments)

    monkeypatch.setattr(Attempt, "_start", spy)
    with runner() as runs:
        runs.start(job)
    assert there == [False]


def test_the_run_of_another_config_is_refused(tmp_path):
    job = make(tmp_path)
    run(job)
    with runner() as runs:
        with pytest.raises(UserError, match=r"fine0 .*lr=\(no such key\).* 0.001"):
            runs.check(replace(job, config={**job.config, "lr": 1e-3, "ckpt_path": "x"}))
        runs.check(replace(job, config={**job.config, "ckpt_path": "x"}))


def test_unused_groups_and_figures_are_not_compared(tmp_path):
    job = make(tmp_path)
    run(job)
    config = {
        "module": {"lr": 1},
        "callbacks": {"figures": {"every_n_epochs": 1}},
        "noise_schedule": {"gamma_min": 1},
    }
    (job.directory / "config.yaml").write_text(json.dumps(config))
    other = {"module": {"lr": 1}, "callbacks": {"figures": None}, "noise_schedule": {"gamma_min": 2}}
    with runner() as runs:
        runs.check(replace(job, config=other))
        with pytest.raises(UserError, match=r"lr=1.* 2"):
            runs.check(replace(job, config={**other, "module": {"lr": 2}}))


def test_at_most_n_jobs_run_at_the_same_time(tmp_path):
    jobs = [make(tmp_path, seed=seed, pause=0.1) for seed in range(5)]
    run(*jobs, n_jobs=2)
    begins = [(float(starts(job.directory)[0][0]), 1) for job in jobs]
    ends = [(float((job.directory / "ended").read_text()), -1) for job in jobs]
    running = 0
    counts = [running := running + change for _, change in sorted(begins + ends)]
    assert max(counts) == 2


def test_a_job_is_watched_and_pruned(tmp_path, monkeypatch):
    monkeypatch.setattr("latentlab.sweeps.jobs.attempt.WATCH_SECONDS", 0.2)
    seen: list[str] = []

    def watch(job, rows):
        seen.extend(row["epoch"] for row in rows)
        return job.overrides[0] == "what=wait"

    pruned, fine = run(make(tmp_path, "wait"), make(tmp_path, pause=0.2), watch=watch)
    assert (pruned.status, fine.status) == (Status.PRUNED, Status.FINISHED)
    assert pruned.status.succeeded
    assert (
        len(seen) >= 3 and seen.count("0") == 2 and len(seen) <= len(set(seen)) + 2
    )  # each row once for each job
    again, _ = run(pruned.job, fine.job)
    assert again.status == Status.PRUNED and len(starts(pruned.job.directory)) == 1


def test_jobs_are_started_one_by_one(tmp_path):
    left = [make(tmp_path, seed=seed) for seed in range(3)]
    ended = []
    with runner(n_jobs=2) as runs:
        while left or runs.running:
            while left and runs.has_room(left[0]):
                runs.start(left.pop(0))
            assert len(runs.running) <= 2
            ended += runs.wait()
        assert runs.wait() == []
    assert [outcome.status for outcome in ended] == [Status.FINISHED] * 3


def test_an_error_stops_running_jobs(tmp_path):
    job = make(tmp_path, "wait")
    with pytest.raises(ZeroDivisionError), runner() as runs:
        runs.start(job)
        wait_for(last(job))
        1 / 0  # noqa: B018
    [outcome] = runs.outcomes
    assert (outcome.status, outcome.reason) == (Status.INTERRUPTED, "stopped with the sweep")
    assert not alive(int(starts(job.directory)[0][1]))


GPUS = {"accelerator": "gpu", "devices": 1}


def with_trainer(job: Job, trainer: dict) -> Job:
    return replace(job, config={**job.config, "trainer": trainer})


def test_gpus_are_handed_out_in_turn(tmp_path):
    jobs = [with_trainer(make(tmp_path, seed=seed, pause=0.05), GPUS) for seed in range(4)]
    both = with_trainer(make(tmp_path, seed=4), {**GPUS, "devices": "auto"})
    run(*jobs, both, n_jobs=3, devices=[0, "GPU-1"])
    given = [starts(job.directory)[0][2] for job in jobs]
    assert given[:2] == ["0", "GPU-1"] and sorted(given[2:]) == ["0", "GPU-1"]
    assert sorted(starts(both.directory)[0][2].split(",")) == ["0", "GPU-1"]


def test_a_job_that_needs_too_many_gpus_is_refused(tmp_path):
    with runner(devices=[0, 1]) as runs, pytest.raises(UserError, match=r"trainer\.devices=3"):
        runs.check(with_trainer(make(tmp_path), {**GPUS, "devices": 3}))


@both
def test_environment_of_a_job(tmp_path, monkeypatch, start):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    found = environment_of(make(tmp_path), start)
    assert (found["OMP_NUM_THREADS"], found["WANDB_RUN_GROUP"]) == ("1", "group")
    assert "SLURM_NTASKS" not in found  # the job is not a task of the sweep's srun
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    found = environment_of(make(tmp_path, seed=1), start)
    assert (found["OMP_NUM_THREADS"], found["WANDB_RUN_GROUP"]) == ("7", "mine")


def environment_of(job: Job, start: str) -> dict[str, str]:
    run(job, n_jobs=10_000, start=start)
    return json.loads((job.directory / "environment.json").read_text())


def test_a_job_that_runs_elsewhere_is_not_started(tmp_path):
    job = make(tmp_path, "wait")
    with runner() as runs:
        runs.start(job)
        wait_for(job.directory / "metrics.csv")
        with pytest.raises(UserError, match="another sweep"):
            directory.lock(job.directory, patience=0.2)
        assert len(starts(job.directory)) == 1


def test_job_in_the_directory_of_a_single_run_fails_and_changes_nothing(tmp_path):
    job = make(tmp_path)
    with RunDirectory(job.directory).lock():
        metrics = RunDirectory(job.directory).metrics
        metrics.write_text("epoch\n")
        [outcome] = run(job)
        assert outcome.status == Status.FAILED and "another process" in outcome.reason
        assert metrics.read_text() == "epoch\n"


KILLED = """
    import sys
    from pathlib import Path
    sys.path[:0] = {tests!r}
    from test_runner import make, run
    run(make(Path({folder!r}), "hang"), make(Path({folder!r}), "wait"), start={start!r})
"""


@both
def test_a_sweep_that_is_killed_leaves_nothing_running(tmp_path, start):
    tests = [str(folder) for folder in Path(__file__).parents[:3]]
    code = textwrap.dedent(KILLED).format(tests=tests, folder=str(tmp_path), start=start)
    process = subprocess.Popen([sys.executable, "-c", code])
    hung, waits = make(tmp_path, "hang"), make(tmp_path, "wait")
    wait_for(hung.directory / "pids")
    wait_for(last(waits))
    process.kill()
    process.wait()
    for job in (hung, waits):  # the lock waits for the end of the old job
        os.close(directory.lock(job.directory, patience=10))
    pids = [*(hung.directory / "pids").read_text().split(), starts(waits.directory)[0][1]]
    assert not any(alive(int(pid)) for pid in pids)
    assert directory.read_record(waits.directory).status == "running"
    save(last(waits), 1)
    assert run(waits)[0].status == Status.FINISHED
    assert epochs(waits.directory) == ALL


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a child with its parent")
@both
def test_a_guard_that_is_killed_ends_its_job(tmp_path, start):
    job = make(tmp_path, "wait")
    with runner(start=start) as runs:
        runs.start(job)
        wait_for(job.directory / "metrics.csv")
        os.kill(runs._attempts[job]._guard.pid, signal.SIGKILL)
        [outcome] = runs.wait()
        assert outcome.status == Status.FAILED and "signal 9" in outcome.reason
    os.close(directory.lock(job.directory, patience=10))
    assert not alive(int(starts(job.directory)[0][1]))


def test_an_interrupt_before_a_job_has_started_leaves_no_record(tmp_path):
    class Interrupted:
        def __call__(self, *_: object) -> None:
            raise KeyboardInterrupt

        def rejoin(self, *_: object) -> None:
            return None

    job = make(tmp_path)
    with runner() as runs, pytest.raises(KeyboardInterrupt):
        runs._start_of = lambda job: Interrupted()
        runs.start(job)
    assert not (job.directory / "job.json").exists() and runs.outcomes == []


# -- Forked jobs

forks = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")


@forks
def test_a_forked_job_finds_the_process_of_a_spawned_one(tmp_path):
    spawned = state_of(make(tmp_path / "spawn", "state"), "spawn")
    jobs = [make(tmp_path / "fork", "state", seed=seed) for seed in (0, 1)]
    first, second = run(*jobs, n_jobs=1)  # the first changes all that it finds
    assert (first.status, second.status) == (Status.FINISHED, Status.FINISHED)
    states = [json.loads(found(job, "state.json")) for job in jobs]
    assert [{**state, "argv": spawned["argv"]} for state in states] == [spawned, spawned]
    assert states[1]["argv"][:2] == ["what=state", "seed=1"]
    assert "LATER" not in json.loads(found(jobs[1], "environment.json"))
    assert found(jobs[0], "draw") != found(jobs[1], "draw")
    assert all(found(job, "exit") == "at the end" for job in jobs)


def state_of(job: Job, start: str) -> dict:
    assert run(job, start=start)[0].status == Status.FINISHED
    return json.loads(found(job, "state.json"))


def found(job: Job, name: str) -> str:
    return (job.directory / name).read_text()


@forks
def test_a_forked_job_deletes_no_temporary_folder_of_the_next_one(tmp_path):
    jobs = [make(tmp_path, "library", seed=seed) for seed in (0, 1)]
    with runner(("fake_library",), n_jobs=1) as runs:
        outcomes = runs.run(jobs)
        runs.fork._server.end()
    assert [outcome.status for outcome in outcomes] == [Status.FINISHED] * 2
    first, second = (Path(found(job, "own")) for job in jobs)
    shared, same = (Path(found(job, "shared")) for job in jobs)
    assert first != second and shared == same
    assert not any(folder.exists() for folder in (first, second, shared))
    assert not any("Traceback" in found(job, "job.log") for job in jobs)


@forks
def test_the_imports_before_the_first_job_are_no_time_of_it(tmp_path):
    job = make(tmp_path)
    with runner(("slow_library",)) as runs:
        runs.start(job)
        assert runs._attempts[job].seconds < 1
        runs.wait()


@forks
def test_jobs_go_on_without_the_process_that_forks_them(tmp_path, caplog):
    waits, fine = make(tmp_path, "fine", pause=0.3), make(tmp_path, seed=1)
    with runner() as runs:
        runs.start(waits)
        wait_for(waits.directory / "metrics.csv")
        runs.fork._server.process.kill()
        runs.start(fine)
        outcomes = [*runs.wait(), *runs.wait()]
    assert [outcome.status for outcome in outcomes] == [Status.FINISHED] * 2
    assert "imports for itself" in caplog.text


@forks
def test_a_forked_job_holds_no_lock_of_another_one(tmp_path):
    fine, waits = make(tmp_path), make(tmp_path, "wait")
    with runner() as runs:
        runs.start(fine)
        runs.start(waits)
        assert runs.wait()[0].job == fine
        os.close(directory.lock(fine.directory, patience=0))


@forks
def test_a_job_with_environment_variables_is_not_forked(tmp_path):
    job = replace(make(tmp_path), variables={"OMP_NUM_THREADS": "2"})
    with runner(start=None) as runs:
        runs.run([job])
        assert runs.fork._server is None


@forks
def test_jobs_that_cannot_be_forked_say_so_once_if_fork_was_asked_for(tmp_path, capsys):
    jobs = [with_trainer(make(tmp_path, seed=seed), GPUS) for seed in (0, 1)]
    with runner(devices=[0], start="fork") as runs:
        runs.progress = SweepProgress(console=Console(width=200))
        runs.run(jobs)
        assert runs.fork._server is None
    assert capsys.readouterr().out.count("hydra.launcher.start=fork") == 1
