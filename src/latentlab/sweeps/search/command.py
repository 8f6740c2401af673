"""A search from the command line: its settings checked, its trials run by the configured launcher, its report."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.latentlab.launcher import JobsLauncher
from latentlab.cli.checks import check_call, check_config
from latentlab.cli.overrides import quoted
from latentlab.errors import UserError
from latentlab.sweeps.jobs import directory as job_directory
from latentlab.sweeps.jobs.attempt import DIVERGED
from latentlab.sweeps.jobs.job import Job, Outcome, Status
from latentlab.sweeps.jobs.launch import Sweep
from latentlab.sweeps.search.report import report
from latentlab.sweeps.search.search import (
    DIRECTIONS,
    BatchedSearch,
    SearchSettings,
    WatchedSearch,
    check_metric,
)
from latentlab.sweeps.search.space import Space, read_space
from latentlab.sweeps.search.study import REASON, Trials, open_study


def run_search(
    settings: Mapping[str, Any],
    arguments: Sequence[str],
    config: DictConfig,
    launcher: Launcher,
    context: HydraContext,
) -> None:
    """Search, and report what was found.

    Args:
        settings: the keys of `hydra.sweeper`.
        arguments: the overrides of the command line.
        config: the composed config, that of Hydra with it.
        launcher: the configured launcher.
        context: what composes the configs of the trials.

    Raises:
        UserError: for a mistake in the settings or the space, another study's storage, or too many failures.
    """
    chosen = read_settings(settings)
    space = read_space(chosen.params, arguments, context.config_loader)
    directory = Path(str(config.hydra.sweep.dir))
    composer = Composer(config, context)
    corners = composer.check(space, chosen.metric)
    if isinstance(launcher, JobsLauncher):
        runner = launcher.sweep.runner()
        for job in corners:
            runner.needs(job)
    with quiet():
        trials = open_trials(chosen, space, directory)
        OmegaConf.save(config, directory / "multirun.yaml")
        announce(trials, chosen)
        try:
            search_with(trials, chosen.metric, launcher, composer, chosen.batch_size)
        except (KeyboardInterrupt, SystemExit):
            print("interrupted: the same command goes on with what is not finished")
            raise
        finally:
            report(trials, chosen.metric, chosen.direction == "maximise")
    check_end(trials)


def read_settings(settings: Mapping[str, Any]) -> SearchSettings:
    """The settings of a search, checked.

    Raises:
        UserError: for an unknown key, or a value that does not fit.
    """
    where = "hydra.sweeper"
    check_call({"_target_": f"{SearchSettings.__module__}.SearchSettings", **settings}, where)
    for key in ("sampler", "pruner", "storage"):
        for name, value in settings[key].items():
            if value == "???":
                raise UserError(f"{where}.{key}.{name} is needed: give it as {where}.{key}.{name}=...")
        check_config(settings[key], settings[key], f"{where}.{key}")
    return SearchSettings(**settings)


def open_trials(settings: SearchSettings, space: Space, directory: Path) -> Trials:
    """The trials of a search, those that are in its storage with them.

    Raises:
        UserError: when the storage cannot be read, or is another search's.
    """

    def sampler(number: int) -> optuna.samplers.BaseSampler:
        # Not seed + number, with which the searches of seeds 0 and 1 would have nearly all draws in common.
        words = [settings.seed, number] if settings.reseed else [settings.seed]
        seed = int(np.random.SeedSequence(words).generate_state(1)[0])
        return instantiate({**settings.sampler, "seed": seed})

    sampler(0)  # a library that is lacking is said before anything starts
    n_trials = settings.count(space)
    study = open_study(
        storage=lambda: instantiate(settings.storage),
        directory=directory,
        name=settings.study,
        description=settings.description(space),
        direction=DIRECTIONS[settings.direction],
        pruner=instantiate(settings.pruner),
    )
    return Trials(study, directory, space, sampler, n_trials, settings.max_failures)


class Composer:
    """Composes and checks the jobs of trials, for any launcher.

    Args:
        config: the composed config of the search.
        context: what composes the configs of the trials.
    """

    def __init__(self, config: DictConfig, context: HydraContext) -> None:
        own = config.copy()
        with open_dict(own):
            own.hydra.launcher = {}  # the settings of other launchers are not for what prepares jobs
        self.sweep = Sweep(context.config_loader, own)

    def __call__(self, overrides: Sequence[str], directory: Path) -> Job:
        """The job of a trial."""
        varied = " ".join(_short(each) for each in overrides if each not in self.fixed)
        return self.sweep.prepare(overrides, directory, f"{directory.name} {varied}")

    def check(self, space: Space, metric: str) -> list[Job]:
        """Check trials from the edges of the space; their jobs.

        Raises:
            UserError: when one does not fit the code, or has no such metric.
        """
        self.fixed = set(space.fixed.values())
        place = self.sweep.folder / "trials" / "0000"
        corners = [self(space.overrides(params), place) for params in space.corners()]
        for job in corners:
            check_metric(metric, job.config)
        return corners


def search_with(trials: Trials, metric: str, launcher: Launcher, prepare: Composer, batch_size: int) -> None:
    """Run the trials with a launcher: each by itself and watched where it can, else in batches."""
    if isinstance(launcher, JobsLauncher):
        runner = launcher.sweep.runner(trials.goal - trials.done)
        runner.progress.metric = metric
        with runner:
            WatchedSearch(trials, metric, prepare, runner, runner.progress.say).run()
    else:
        print(f"{type(launcher).__name__} runs whole batches, of {batch_size} trials: none of them is pruned")
        BatchedSearch(trials, metric, prepare, Batches(launcher), batch_size).run()


class Batches:
    """Runs jobs with a launcher of Hydra's, and reads from their directories what became of them.

    Args:
        launcher: the launcher.
    """

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.launched = 0

    def __call__(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcomes of the jobs, those that were settled before with them."""
        new = [job for job in jobs if job_directory.settled(job) is None]
        reason = self._launch([self._words(job) for job in new]) if new else ""
        return [_read_outcome(job, reason or "it left no summary.json") for job in jobs]

    def _launch(self, batch: Sequence[Sequence[str]]) -> str:
        first, self.launched = self.launched, self.launched + len(batch)
        try:
            self.launcher.launch(batch, initial_job_idx=first)
        except (Exception, SystemExit) as error:  # one job's failure is no reason to drop the others
            return " ".join(str(error).split())[-300:]
        return ""

    def _words(self, job: Job) -> list[str]:
        last = job_directory.checkpoint(job)
        if last is None:
            job_directory.clear(job.directory)
        resumed = [quoted("ckpt_path", last)] if last else []
        place = f"{job.directory.parent.name}/{job.directory.name}"
        return [*job.overrides, *resumed, quoted("hydra.sweep.subdir", place)]


def _read_outcome(job: Job, reason: str) -> Outcome:
    if settled := job_directory.settled(job):
        return settled
    return Outcome(job, Status.DIVERGED if DIVERGED.search(reason) else Status.FAILED, reason)


def announce(trials: Trials, settings: SearchSettings) -> None:
    """Say what is searched and where, and what is there already."""
    parts = [str(each["_target_"]).rpartition(".")[2] for each in (settings.sampler, settings.pruner)]
    before = f", {trials.done} done before" if trials.done else ""
    print(f"search: {trials.goal} trials{before}, {' and '.join(parts)}, in {trials.directory}")
    for key, each in trials.space.distributions.items():
        print(f"  {key}: {each}")


def check_end(trials: Trials) -> None:
    """Say how a search ended that is not complete.

    Raises:
        UserError: when it was given up.
    """
    if trials.is_complete:
        return
    if trials.is_hopeless:
        last = trials.given_up[-1]
        raise UserError(
            f"{len(trials.given_up)} trials failed, the last with: {last.user_attrs[REASON]} "
            f"({trials.run_directory(last)}; hydra.sweeper.max_failures allows more)"
        )
    print("other workers still run trials: the last to end writes the whole report")


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's notices off, and its warnings of what is experimental."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _short(override: str) -> str:
    key, _, value = override.partition("=")
    try:
        return f"{key}={float(value):.4g}"
    except ValueError:
        return override
