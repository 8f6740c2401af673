"""A search from the command line: check the settings, run the trials, report the best."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from latentlab.cli.checks import check_call, check_config
from latentlab.cli.screen import say, terminal
from latentlab.errors import UserError
from latentlab.run.files import write_text
from latentlab.sweeps.jobs.directory import removed_if_unused
from latentlab.sweeps.jobs.job import Job
from latentlab.sweeps.jobs.sweep import Sweep
from latentlab.sweeps.search.batches import Batches
from latentlab.sweeps.search.report import report
from latentlab.sweeps.search.search import (
    DIRECTIONS,
    BatchedSearch,
    SearchSettings,
    WatchedSearch,
    check_metric,
)
from latentlab.sweeps.search.space import Space, read_space
from latentlab.sweeps.search.study import REASON, Trials, open_study, storage_errors


def run_search(
    settings: Mapping[str, Any],
    arguments: Sequence[str],
    config: DictConfig,
    loader: ConfigLoader,
    launcher: Launcher,
    sweep: Sweep | None,
) -> None:
    """Search, and report the best trials.

    Args:
        settings: the keys of `hydra.sweeper`.
        arguments: the overrides of the command line.
        config: the composed config, including its `hydra` part.
        loader: composes the configs of the trials.
        launcher: the configured launcher.
        sweep: the launcher's sweep if it can start single jobs, else None.

    Raises:
        UserError: if the settings or the space are wrong, the storage belongs to another search, or too many trials
            failed.
    """
    directory = Path(str(config.hydra.sweep.dir))
    with removed_if_unused(directory):
        chosen = read_settings(settings)
        space = read_space(chosen.params, arguments, loader)
        chosen.count(space)
        prepare = TrialJobs(config, loader, space, sweep)
        corners = prepare.check(chosen.metric)
        if sweep:
            runner = sweep.runner()
            for job in corners:
                runner.needs(job)
    with quiet(), storage_errors():
        trials = open_trials(chosen, space, directory)
        write_text(directory / "multirun.yaml", OmegaConf.to_yaml(config))
        announce(trials, chosen)
        try:
            if sweep:
                _run_watched(trials, chosen.metric, prepare, sweep)
            else:
                _run_batched(trials, chosen, prepare, launcher)
        except (KeyboardInterrupt, SystemExit):
            say(terminal(), "interrupted: the same command runs the remaining trials")
            raise
        finally:
            report(trials, chosen.metric, chosen.direction == "maximise")
    check_end(trials)


def read_settings(settings: Mapping[str, Any]) -> SearchSettings:
    """Read and check `hydra.sweeper`.

    Raises:
        UserError: for an unknown key or a wrong value.
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
    """Open the trials of a search, including those that its storage holds already.

    Raises:
        UserError: if the storage cannot be read or belongs to another search.
    """

    def sampler(number: int) -> optuna.samplers.BaseSampler:
        # With seed + number, the searches of seeds 0 and 1 would share nearly all draws.
        words = [settings.seed, number] if settings.reseed else [settings.seed]
        seed = int(np.random.SeedSequence(words).generate_state(1)[0])
        return instantiate({**settings.sampler, "seed": seed})

    sampler(0)  # a missing library is reported before the search starts
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


class TrialJobs:
    """Composes and checks the jobs of trials, for any launcher.

    Args:
        config: the composed config of the search.
        loader: composes the configs of the trials.
        space: the search space.
        sweep: runs the trials, None with a launcher that runs whole batches.
    """

    def __init__(
        self, config: DictConfig, loader: ConfigLoader, space: Space, sweep: Sweep | None = None
    ) -> None:
        own = config.copy()
        with open_dict(own):
            own.hydra.launcher = {"start": "spawn"}  # another launcher's settings are not valid for Sweep
        self.sweep = sweep.with_loader(loader) if sweep else Sweep(loader, own)
        self.space = space

    def __call__(self, overrides: Sequence[str], directory: Path) -> Job:
        """Return the job of a trial."""
        fixed = set(self.space.fixed.values())
        varied = " ".join(_short(each) for each in overrides if each not in fixed)
        return self.sweep.prepare(overrides, directory, f"{directory.name} {varied}")

    def check(self, metric: str) -> list[Job]:
        """Check the trials at the corners of the space, and return their jobs.

        Raises:
            UserError: if a trial has a wrong argument or no such metric.
        """
        place = self.sweep.folder / "trials" / "0000"
        corners = [self(self.space.overrides(params), place) for params in self.space.corners()]
        for job in corners:
            check_metric(metric, job.config)
        self.sweep.rehearse(corners, "hydra.sweeper.metric", metric)
        return corners


def _run_watched(trials: Trials, metric: str, prepare: TrialJobs, sweep: Sweep) -> None:
    with sweep.runner(trials.goal - trials.done, metric) as runner:
        WatchedSearch(trials, metric, prepare, runner, runner.progress.say).run()


def _run_batched(trials: Trials, settings: SearchSettings, prepare: TrialJobs, launcher: Launcher) -> None:
    batched = f"{type(launcher).__name__} runs batches of {settings.batch_size} trials"
    say(terminal(), f"{batched}, so no trial is pruned")
    BatchedSearch(trials, settings.metric, prepare, Batches(launcher), settings.batch_size).run()


def announce(trials: Trials, settings: SearchSettings) -> None:
    """Print the space, the number of trials, and the methods."""
    parts = [str(each["_target_"]).rpartition(".")[2] for each in (settings.sampler, settings.pruner)]
    before = f", {trials.done} done before" if trials.done else ""
    console = terminal()
    say(console, f"{trials.goal} trials{before}, {' and '.join(parts)}")
    say(console, f"search: {trials.directory}")
    for key, each in trials.space.distributions.items():
        say(console, f"  {key}: {each}", indent="    ")


def check_end(trials: Trials) -> None:
    """Explain the end of a search that is not complete.

    Raises:
        UserError: if too many trials failed.
    """
    if trials.is_complete:
        return
    if trials.is_hopeless:
        last = trials.given_up[-1]
        raise UserError(
            f"{len(trials.given_up)} trials failed, the last with: {last.user_attrs[REASON]} "
            f"({trials.run_directory(last)}; hydra.sweeper.max_failures allows more)"
        )
    say(terminal(), "other workers still run trials: the last one writes the whole report")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's notices and its warnings about experimental features."""
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
