"""A multirun of Hydra as a sweep of jobs. All jobs are composed and checked before the first one starts."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.status import Status as Spinner

from latentlab.cli.checks import check_call, check_config
from latentlab.cli.screen import say, terminal
from latentlab.cli.script import new_process
from latentlab.errors import UserError
from latentlab.sweeps.jobs import directory, report
from latentlab.sweeps.jobs.job import Job, Outcome, Settings, Status
from latentlab.sweeps.jobs.pool import need
from latentlab.sweeps.jobs.rehearsal import check_reported, rehearse
from latentlab.sweeps.jobs.runner import Runner, forked
from latentlab.sweeps.jobs.slurm import Request

# Overrides for the sweep itself, which its jobs do not get.
OWN = ("hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher", "hydra.run.", "hydra.mode")


@final
class Sweep:
    """The jobs of a multirun.

    Args:
        loader: Hydra's config loader.
        config: the config of the multirun, including its `hydra` part.

    Attributes:
        settings: `hydra.launcher`.
        folder: `hydra.sweep.dir`.

    Raises:
        UserError: if a setting is out of range.
    """

    def __init__(self, loader: Any, config: DictConfig) -> None:
        self.loader = loader
        self.config = config
        self.settings = self._given = read_settings(config.hydra.launcher)
        self.folder = Path(config.hydra.sweep.dir)
        self._fork = forked(self.settings, self._command(), self.folder.name)

    def with_loader(self, loader: Any) -> "Sweep":
        """Return the same sweep with another config loader."""
        other = copy(self)
        other.loader = loader
        return other

    def prepare(
        self, overrides: Sequence[str], place: Path | None = None, label: str = "", number: int = 0
    ) -> Job:
        """Compose and check a job.

        Args:
            overrides: the job's overrides.
            place: the run directory. None: `hydra.sweep.subdir` in `folder`.
            label: the name in the table. "": all overrides.
            number: the index in the sweep.

        Raises:
            UserError: if an argument is wrong or the parts do not fit together.
        """
        composed = self.loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        with _current(composed):
            place = place or self.folder / str(composed.hydra.sweep.subdir)
            task = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
            raw: Any = OmegaConf.to_container(task)
            config: Any = OmegaConf.to_container(task, resolve=True)
            variables: Any = OmegaConf.to_container(composed.hydra.job.env_set, resolve=True)
        if not variables:
            self._warm_up(config)
        _check(raw, config, overrides)
        words = [*overrides, *self._for_jobs()]
        return Job(place, tuple(words), label or " ".join(overrides) or "defaults", config, variables)

    def prepare_all(self, job_overrides: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
        """Compose and check jobs. The label of each holds the overrides that not all jobs share.

        Raises:
            UserError: for the first mistake in any job.
        """
        # A single job is spawned: it imports less than all that any job may need.
        single = first == 0 and len(job_overrides) == 1 and self._given.start is None
        self.settings = replace(self._given, start="spawn") if single else self._given
        counts = Counter(override for overrides in job_overrides for override in overrides)
        jobs = []
        for number, overrides in enumerate(job_overrides, first):
            own = [override for override in overrides if counts[override] < len(job_overrides)]
            jobs.append(self.prepare(overrides, None, " ".join(own), number))
        twice = [place for place, count in Counter(job.directory for job in jobs).items() if count > 1]
        if twice:
            raise UserError(f"{twice[0]}: two jobs of this sweep have this directory: give each value once")
        self.rehearse(jobs, "hydra.launcher.metric", self.settings.metric)
        return jobs

    def rehearse(self, jobs: Sequence[Job], key: str, metric: str | None) -> None:
        """Check all that a run checks before it begins, and that some job reports the metric that `key` names.

        Raises:
            UserError: for the first mistake in any job.
        """
        metrics = rehearse(job.config for job in jobs)
        if metric is not None and all(metrics):
            check_reported(key, metric, frozenset().union(*metrics))

    def runner(self, total: int | None = None, metric: str | None = None) -> Runner:
        """Return a runner with the settings of this sweep.

        Args:
            total: number of jobs for the progress bar, None if unknown.
            metric: the metric to print. None: the metric in the settings.
        """
        progress = report.SweepProgress(total, metric or self.settings.metric)
        return Runner(self.settings, self._command(), self.folder.name, progress, self._fork)

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run jobs, print their table and write results.csv.

        Raises:
            UserError: before the first job, if the directory is in use or a job cannot run. After the last job, if
                any job did not succeed.
        """
        with directory.sweep_lock(self.folder):
            runner = self.runner(len(jobs))
            for job in jobs:
                runner.check(job)
            runner.progress.say(self._title(jobs))
            runner.progress.say(f"sweep: {self.folder}")
            try:
                with runner:
                    outcomes = runner.run(jobs)
            except (KeyboardInterrupt, SystemExit):
                self._report(_complete(jobs, runner.outcomes))
                runner.progress.say("interrupted: the same command runs the remaining jobs")
                raise
            self._report(outcomes)
        failed = sum(not outcome.status.succeeded for outcome in outcomes)
        if failed:
            raise UserError(
                f"{failed} of {len(jobs)} jobs did not succeed: see {self.folder}/JOB/{directory.LOG}; "
                "the same command tries them again"
            )
        return outcomes

    def _warm_up(self, config: Mapping[str, Any]) -> None:
        # The process that forks the jobs imports while this one imports and checks.
        with suppress(UserError, TypeError, ValueError):  # `_check` reports a mistake in the trainer
            if (
                self.settings.start not in ("spawn", "slurm")
                and need(config.get("trainer") or {}, None).forks
            ):
                self._fork.launch()

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        report.show(outcomes, self.settings.metric)
        say(terminal(), f"results: {report.write(self.folder)}")

    def _title(self, jobs: Sequence[Job]) -> str:
        known = sum(directory.settled(job) is not None for job in jobs)
        before = f", {known} finished before" if known else ""
        count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
        return f"{count}, {self.settings.n_jobs} at a time{before}"

    def _command(self) -> list[str]:
        hydra = self.config.hydra
        folders = [
            source.path for source in hydra.runtime.config_sources if source.provider == "command-line"
        ]
        extra = [word for path in folders for word in ("--config-dir", path)]
        return [
            *new_process("train", Path(sys.argv[0]).absolute()),
            "--config-name",
            hydra.job.config_name,
            *extra,
        ]

    def _for_jobs(self) -> list[str]:
        return [word for word in self.config.hydra.overrides.hydra if not word.lstrip("+~").startswith(OWN)]


class CachedLoader:
    """A config loader that composes each job once.

    Hydra's sweeper composes all jobs to validate them and drops the result. The launcher needs it again.

    Args:
        loader: Hydra's config loader.
        folder: the directory of the sweep, removed after a mistake.
        spinner: shown from the first job on.
    """

    def __init__(self, loader: Any, folder: Path, spinner: Spinner) -> None:
        self.loader = loader
        self.folder = folder
        self.spinner = spinner
        self._known: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Return the config of a job."""
        key = tuple(sweep_overrides)
        if key in self._known:
            return self._known.pop(key)
        self.spinner.start()
        try:
            with directory.removed_if_unused(self.folder):
                found: DictConfig = self.loader.load_sweep_config(master_config, sweep_overrides)
        except BaseException:
            self.spinner.stop()
            raise
        self._known[key] = deepcopy(found)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def read_settings(node: DictConfig) -> Settings:
    """Read and check `hydra.launcher`.

    Raises:
        UserError: if a setting is out of range.
    """
    given: Any = OmegaConf.to_container(node, resolve=True)
    values = {key: value for key, value in given.items() if key != "_target_"}
    asked = values.pop("slurm", None)
    check_call({"_target_": f"{Settings.__module__}.Settings", **values}, "hydra.launcher")
    if values.get("start") != "slurm":
        return Settings(**values)
    check_call({"_target_": f"{Request.__module__}.Request", **(asked or {})}, "hydra.launcher.slurm")
    return Settings(**values, slurm=Request(**(asked or {})))


def _check(raw: Any, config: Any, overrides: Sequence[str]) -> None:
    if "trainer" not in config:
        return check_config(raw, config)
    from latentlab.cli import experiment  # imports Lightning, which takes seconds

    experiment.check(raw, config, overrides)
    experiment.Experiment(config).parts()  # parts that do not fit together are refused


@contextmanager
def _current(config: DictConfig) -> Iterator[None]:
    # ${hydra:...} reads the current HydraConfig.
    hydra = HydraConfig.instance()
    before, hydra.cfg = hydra.cfg, None
    hydra.set_config(config)
    try:
        yield
    finally:
        hydra.cfg = before


def _complete(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> list[Outcome]:
    found = {outcome.job: outcome for outcome in outcomes}
    return [found.get(job) or Outcome(job, Status.INTERRUPTED, "not started") for job in jobs]
