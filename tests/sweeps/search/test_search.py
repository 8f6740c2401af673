"""Trials of a search: each is claimed and counted once, also if workers die. Training is a formula here."""

import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
import yaml
from matplotlib import pyplot
from optuna.trial import TrialState
from sqlalchemy import event

from latentlab.errors import UserError
from latentlab.sweeps.jobs.job import Job, Outcome, Status
from latentlab.sweeps.search.command import open_trials, quiet
from latentlab.sweeps.search.report import best_first, report
from latentlab.sweeps.search.search import BatchedSearch, SearchSettings, WatchedSearch
from latentlab.sweeps.search.space import Space, read_space
from latentlab.sweeps.search.study import Trials, journal, open_study, sqlite, storage_errors

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SPACE = read_space({"lr": "tag(log, interval(1e-4, 1e-2))", "width": "range(1, 9)"}, ["model=vae"])
STORAGES = {"sqlite": sqlite, "journal": journal}


def test_full_disk_is_reported_in_one_line(tmp_path):
    study = trials(tmp_path, storage="sqlite").study
    with sqlite3.connect(tmp_path / "search.db") as database:  # SQLite's error on a full disk
        pages = database.execute("PRAGMA page_count").fetchone()[0]
    engine = study._storage._backend.engine
    event.listen(engine, "connect", lambda each, _: each.execute(f"PRAGMA max_page_count = {pages}"))
    engine.dispose()
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage.*disk is full"), storage_errors():
        study.set_user_attr("long", "x" * 2000)
        study.set_user_attr("longer", "x" * 2000)
        study.set_user_attr("longest", "x" * 2000)


@pytest.fixture(autouse=True)
def quiet_optuna():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def trials(home: Path, n_trials: int = 6, space: Space = SPACE, **settings) -> Trials:
    """Return a worker of the search in `home`."""
    storage = STORAGES[settings.pop("storage", "journal")]
    study = open_study(
        lambda: storage(str(home / "search.db")),
        home,
        settings.pop("name", "search"),
        settings.pop("description", space.description()),
        "maximize",
        settings.pop("pruner", optuna.pruners.NopPruner()),
    )
    return Trials(
        study, home, space, optuna.samplers.RandomSampler, n_trials, settings.pop("max_failures", 3)
    )


def objective(job: Job) -> float:
    """Return the score of a run. It is best at width 8."""
    values = dict(each.split("=") for each in job.overrides)
    return float(values["width"]) - float(values["lr"])


def train(job: Job, epochs: int = 3) -> Outcome:
    """Write the metrics of a run that finishes."""
    job.directory.mkdir(parents=True, exist_ok=True)
    rows = [f"{epoch},{objective(job) - 1 / (epoch + 1)}" for epoch in range(epochs)]
    (job.directory / "metrics.csv").write_text("\n".join(["epoch,val/elbo", *rows, ""]))
    return Outcome(job, Status.FINISHED, summary={"val/elbo": objective(job)})


def prepare(overrides: Sequence[str], directory: Path) -> Job:
    return Job(directory, tuple(overrides))


class Machine:
    """A runner with two slots, where `train` takes no time."""

    def __init__(self, train=train):
        self.train = train
        self.running: list[Job] = []
        self.started: list[Job] = []
        self.pruned: set[Job] = set()

    def has_room(self, job):
        return len(self.running) < 2

    def start(self, job, watch=None):
        assert self.has_room(job)
        self.running.append(job)
        self.started.append(job)

    def wait(self):
        return [self.train(self.running.pop(0))] if self.running else []


def run(owned: Trials, machine: Machine | None = None) -> Machine:
    machine = machine or Machine()
    WatchedSearch(owned, "val/elbo", prepare, machine, say=lambda line: None).run()
    return machine


def states(owned: Trials) -> list[str]:
    return [trial.state.name for trial in owned.study.get_trials(deepcopy=False)]


# -- The number of trials


@pytest.mark.parametrize("storage", STORAGES)
def test_a_search_runs_n_trials_over_all_calls(tmp_path, storage):
    owned = trials(tmp_path, 5, storage=storage)
    assert len(run(owned).started) == 5 and owned.is_complete
    again = trials(tmp_path, 5, storage=storage)
    assert len(run(again).started) == 0
    more = trials(tmp_path, 7, storage=storage)
    assert len(run(more).started) == 2
    assert states(more) == ["COMPLETE"] * 7


def test_a_trial_has_the_fixed_overrides_and_its_own_directory(tmp_path):
    machine = run(trials(tmp_path, 2))
    one, other = machine.started
    assert one.directory == tmp_path / "trials" / "0000" and other.directory.name == "0001"
    assert one.overrides[0] == "model=vae" and one.overrides != other.overrides


def test_trials_depend_on_the_seed_and_their_number_but_not_on_the_worker(tmp_path):
    together = run(trials(tmp_path / "a", 6)).started
    apart = [trials(tmp_path / "b", 6), trials(tmp_path / "b", 6)]
    jobs = []
    for turn in range(6):
        trial = apart[turn % 2].claim()
        jobs.append(SPACE.overrides(trial.params))
    assert [list(job.overrides) for job in together] == jobs
    assert len({tuple(job) for job in jobs}) == 6


def test_racing_workers_claim_each_trial_once(tmp_path):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        sys.path[:0] = [sys.argv[2]]
        from test_search import trials
        owned = trials(Path(sys.argv[1]), 8)
        while (trial := owned.claim()) is not None:
            owned.complete(trial, 0.0)
            print(trial.number)
    """)
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    claimed = [int(line) for worker in workers for line in worker.communicate(timeout=60)[0].split()]
    assert sorted(claimed) == list(range(8))


# -- Workers that die


def test_a_lost_trial_is_run_again_with_its_values_in_its_directory(tmp_path):
    dead, alive = trials(tmp_path, 4), trials(tmp_path, 4)
    lost = dead.claim()
    held = alive.claim()
    dead._alive.release()  # as the system does when a process dies
    machine = run(trials(tmp_path, 4))
    assert machine.started[0].directory == tmp_path / "trials" / "0000"
    assert list(machine.started[0].overrides) == SPACE.overrides(lost.params)
    assert len(machine.started) == 3, "the fourth trial has a living worker"
    alive.complete(held, 0.0)
    assert alive.is_complete and sorted(states(alive)) == ["COMPLETE"] * 4 + ["FAIL"]


def test_a_killed_process_releases_its_trial(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        sys.path[:0] = [sys.argv[2]]
        from test_search import trials
        trials(Path(sys.argv[1]), 2).claim()
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False).returncode == -9
    owned = trials(tmp_path, 2)
    assert states(owned) == ["RUNNING"]
    run(owned)
    assert states(owned) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_the_next_worker_runs_an_interrupted_trial(tmp_path):
    stopped = trials(tmp_path, 2)
    run(stopped, Machine(lambda job: Outcome(job, Status.INTERRUPTED)))
    assert states(stopped) == ["RUNNING"] * 2
    stopped._alive.release()
    assert len(run(trials(tmp_path, 2)).started) == 2


# -- Trials that fail


def test_a_trial_that_crashes_is_tried_once_more_and_neither_counts(tmp_path):
    crashes = {"0001": 2, "0002": 1}

    def unreliable(job):
        if crashes.get(job.directory.name, 0) > 0:
            crashes[job.directory.name] -= 1
            return Outcome(job, Status.FAILED, "out of memory")
        return train(job)

    owned = trials(tmp_path, 4)
    started = [job.directory.name for job in run(owned, Machine(unreliable)).started]
    assert started.count("0001") == 2 and started.count("0002") == 2
    assert owned.done == 4 and [each.user_attrs["reason"] for each in owned.given_up] == ["out of memory"]


def test_a_search_stops_after_max_failures(tmp_path):
    owned = trials(tmp_path, 20, max_failures=2)
    machine = run(owned, Machine(lambda job: Outcome(job, Status.TIMED_OUT, "stopped")))
    assert owned.is_hopeless and len(machine.started) <= 6


def test_a_trial_that_diverges_counts_as_pruned(tmp_path):
    owned = trials(tmp_path, 2)
    machine = run(owned, Machine(lambda job: Outcome(job, Status.DIVERGED, "the bound became NaN")))
    assert len(machine.started) == 2 and states(owned) == ["PRUNED"] * 2


def test_a_refused_trial_fails_alone(tmp_path):
    def picky(overrides, directory):
        if "width=1" in overrides:
            raise UserError("width=1 does not work")
        return Job(directory, tuple(overrides))

    space = read_space({"width": "choice(1, 2, 3)"}, ["lr=0"])
    owned = Trials(
        trials(tmp_path, space=space).study, tmp_path, space, optuna.samplers.BruteForceSampler, 3, 5
    )
    WatchedSearch(owned, "val/elbo", picky, Machine(), say=lambda line: None).run()
    assert sorted(states(owned)) == ["COMPLETE", "COMPLETE", "FAIL"], (
        "a finite space without its refused point"
    )


def test_a_run_without_the_metric_ends_the_search(tmp_path):
    machine = Machine(lambda job: Outcome(job, Status.FINISHED, summary={"val/loss": 1.0}))
    with pytest.raises(UserError, match=r"hydra\.sweeper\.metric=val/elbo: .*val/loss"):
        run(trials(tmp_path), machine)


# -- Pruning


def test_a_trial_below_the_median_is_pruned_and_all_its_epochs_are_kept(tmp_path):
    class Watching(Machine):
        def start(self, job, watch=None):
            super().start(job, watch)
            values = [objective(job) - 1 / (epoch + 1) for epoch in range(4)]
            rows = [{"epoch": str(i), "val/elbo": str(value)} for i, value in enumerate(values)]
            if any(watch(job, [row]) for row in rows[:2]):
                self.pruned.add(job)

        def wait(self):
            if not self.running:
                return []
            job = self.running.pop(0)
            return [Outcome(job, Status.PRUNED) if job in self.pruned else train(job)]

    owned = trials(tmp_path, 12, pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1))
    run(owned, Watching())
    pruned, finished = owned.of(TrialState.PRUNED), owned.of(TrialState.COMPLETE)
    assert len(pruned) >= 1 and len(pruned) + len(finished) == 12
    best = max(trial.value for trial in finished)
    assert all(trial.intermediate_values[1] < best for trial in pruned)
    assert all(sorted(trial.intermediate_values) == [0, 1, 2] for trial in finished)


# -- Batches


def test_batches_of_trials(tmp_path):
    batches = []

    def launch(jobs):
        batches.append(len(jobs))
        return [train(job) for job in jobs]

    owned = trials(tmp_path, 5)
    BatchedSearch(owned, "val/elbo", prepare, launch, 2, say=lambda line: None).run()
    assert batches == [2, 2, 1] and owned.is_complete


# -- A storage of another search


@pytest.mark.parametrize(
    ("params", "arguments", "words"),
    [
        ({"lr": "interval(0, 1)", "width": "range(1, 9)"}, ["model=vae"], "lr: the search in"),
        ({"lr": "tag(log, interval(1e-4, 1e-2))"}, ["model=vae"], "width: the search in"),
        (
            {"lr": "tag(log, interval(1e-4, 1e-2))", "width": "range(1, 9)"},
            ["model=iwae"],
            "model: the search in",
        ),
    ],
)
def test_a_storage_of_another_search_is_refused(tmp_path, params, arguments, words):
    trials(tmp_path)
    with pytest.raises(UserError, match=words) as refused:
        trials(tmp_path, space=read_space(params, arguments))
    assert "\n" not in str(refused.value)


def test_another_logger_does_not_make_another_search(tmp_path):
    trials(tmp_path)
    trials(tmp_path, space=Space(SPACE.distributions, {**SPACE.fixed, "logger": "logger=none"}))


@pytest.mark.parametrize("storage", STORAGES)
def test_a_file_that_is_not_a_storage_is_refused(tmp_path, storage):
    (tmp_path / "search.db").write_text("[1, 2]\nnothing of the kind" * 99)
    with pytest.raises(UserError, match="cannot be opened as the storage of a search"):
        trials(tmp_path, storage=storage)


def test_workers_of_one_storage_share_a_directory(tmp_path):
    trials(tmp_path)
    with pytest.raises(UserError, match=r"hydra\.sweep\.dir="):
        open_study(
            lambda: journal(str(tmp_path / "search.db")),
            tmp_path / "other",
            "search",
            SPACE.description(),
            "maximize",
            optuna.pruners.NopPruner(),
        )


# -- The report


def test_the_report_names_the_best_trial_and_draws_the_search(tmp_path, capsys):
    owned = trials(tmp_path, 12)
    run(owned)
    report(owned, "val/elbo", maximises=True)
    best = best_first(owned.of(TrialState.COMPLETE), maximises=True)[0]
    assert best.value == owned.study.best_value
    text = (tmp_path / "best.yaml").read_text()
    assert "command: python train.py model=vae lr=" in text and f"trial: '{best.number:04d}'" in text
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {
        *("history", "curves", "importance", "parallel")
    }
    assert "12 finished" in capsys.readouterr().out
    assert (pyplot.get_fignums(), pyplot.rcParams["axes.facecolor"]) == ([], "white")  # nothing leaks


def test_a_search_without_trials_reports_nothing(tmp_path, capsys):
    report(trials(tmp_path), "val/elbo", maximises=True)
    assert "0 finished" in capsys.readouterr().out and not (tmp_path / "figures").exists()


# -- Samplers, as they are configured

SAMPLERS = sorted((Path(__file__).parents[3] / "conf" / "hydra" / "sweeper" / "sampler").glob("*.yaml"))


@pytest.mark.parametrize("path", SAMPLERS, ids=lambda path: path.stem)
def test_every_sampler_proposes_different_trials(tmp_path, path):
    if path.stem == "cmaes":
        pytest.importorskip("cmaes")
    space = read_space({"lr": "range(1, 4)", "width": "range(1, 9)"}, [])
    settings = SearchSettings(
        n_trials=4,
        reseed=path.stem != "qmc",
        sampler=yaml.safe_load(path.read_text()),
        pruner={"_target_": "optuna.pruners.HyperbandPruner", "max_resource": 3},
        storage={"_target_": "latentlab.sweeps.search.study.journal", "path": str(tmp_path / "search.db")},
    )
    with quiet():
        owned = open_trials(settings, space, tmp_path)
        run(owned)
    assert len({tuple(trial.params.values()) for trial in owned.of(TrialState.COMPLETE)}) == 4


def test_a_grid_visits_every_point_once(tmp_path):
    space = read_space({"lr": "0,1", "width": "1,2,3"}, [])
    study = trials(tmp_path, space=space).study
    run(owned := Trials(study, tmp_path, space, optuna.samplers.BruteForceSampler, 6, 1))
    points = [tuple(trial.params.values()) for trial in owned.of(TrialState.COMPLETE)]
    assert len(points) == len(set(points)) == 6


# -- A storage from somebody else


@pytest.mark.parametrize(
    ("key", "value"), [("directory", "/tmp"), ("directory", "../../x"), ("worker", "../../poetry")]
)
def test_a_trial_names_no_other_place(tmp_path, key, value):
    owned = trials(tmp_path / "sweep", 2)
    trial = owned.study.ask(dict(SPACE.distributions))
    for each, given in {"directory": "0000", "worker": "0" * 12, key: value}.items():
        trial.set_user_attr(each, given)
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage"):
        owned.claim()
        owned.run_directory(trial)
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}
