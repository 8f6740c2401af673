"""From Hydra's multirun to jobs: composed and checked all before the first starts, run, and reported."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, final

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from latentlab.cli.checks import check_call, check_config
from latentlab.errors import UserError
from latentlab.sweeps.jobs import directory, table
from latentlab.sweeps.jobs.job import Job, Outcome, Status
from latentlab.sweeps.jobs.lock import hold, tidied
from latentlab.sweeps.jobs.progress import Progress
from latentlab.sweeps.jobs.runner import Runner
from latentlab.sweeps.jobs.settings import Settings

# What of a command is about the sweep, and not for its jobs.
OWN = ("hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher", "hydra.run.", "hydra.mode")


@final
class Sweep:
    """The jobs of a multirun.

    Args:
        loader: Hydra's.
        config: the multirun's config, with its `hydra` part.

    Attributes:
        settings: `hydra.launcher.*`.
        folder: `hydra.sweep.dir`.

    Raises:
        UserError: for a setting out of range.
    """

    def __init__(self, loader: Any, config: DictConfig) -> None:
        self.loader = loader
        self.config = config
        self.settings = read_settings(config.hydra.launcher)
        self.folder = Path(config.hydra.sweep.dir)

    def prepare(
        self, overrides: Sequence[str], directory: Path | None = None, label: str = "", number: int = 0
    ) -> Job:
        """Compose and check a job.

        Args:
            overrides: its plain overrides.
            directory: its run directory; None for `hydra.sweep.subdir` in `folder`.
            label: how it is shown; "" for all its overrides.
            number: its number in the sweep.

        Raises:
            UserError: for an argument that its config gives wrongly, or parts that do not go together.
        """
        composed = self.loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        with _current(composed):
            place = directory or self.folder / str(composed.hydra.sweep.subdir)
            task = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
            raw: Any = OmegaConf.to_container(task)
            config: Any = OmegaConf.to_container(task, resolve=True)
        _check(raw, config, overrides)
        words = [*overrides, *self._for_jobs()]
        return Job(place, tuple(words), label or " ".join(overrides) or "defaults", config)

    def prepare_all(self, job_overrides: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
        """Compose and check jobs, each labelled with what tells it from the others.

        Raises:
            UserError: for the first mistake in any of them.
        """
        counts = Counter(override for overrides in job_overrides for override in overrides)
        jobs = []
        for number, overrides in enumerate(tqdm(job_overrides, "checking jobs", **_PATIENT), first):
            own = [override for override in overrides if counts[override] < len(job_overrides)]
            jobs.append(self.prepare(overrides, None, " ".join(own), number))
        twice = [place for place, count in Counter(job.directory for job in jobs).items() if count > 1]
        if twice:
            raise UserError(f"{twice[0]}: two jobs of this sweep have this directory: give each value once")
        return jobs

    def runner(self, total: int | None = None) -> Runner:
        """A runner with this sweep's settings; `total` jobs are expected, for its progress."""
        progress = Progress(total, self.settings.metric)
        return Runner(self.settings, self._command(), group=self.folder.name, progress=progress)

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run jobs, and show and write what became of them.

        Raises:
            UserError: before anything starts, when the sweep's directory is in use, or a job cannot be run there; at
                the end, when some job did not succeed.
        """
        with hold(self.folder):
            runner = self.runner(len(jobs))
            for job in jobs:
                runner.check(job)
            runner.progress.say(self._title(jobs))
            try:
                with runner:
                    outcomes = runner.run(jobs)
            except (KeyboardInterrupt, SystemExit):
                self.report(_complete(jobs, runner.outcomes))
                runner.progress.say("interrupted: the same command goes on with what is not finished")
                raise
            self.report(outcomes)
        failed = sum(not outcome.status.succeeded for outcome in outcomes)
        if failed:
            raise UserError(
                f"{failed} of {len(jobs)} jobs did not succeed: {self.folder}/JOB/{directory.LOG} holds their "
                "output, and the same command tries them again"
            )
        return outcomes

    def report(self, outcomes: Sequence[Outcome]) -> None:
        """Show the table of some jobs, and write results.csv of all in the sweep's directory."""
        table.show(outcomes, self.settings.metric)
        print(f"results: {table.write(self.folder)}", flush=True)

    def _title(self, jobs: Sequence[Job]) -> str:
        known = sum(directory.settled(job) is not None for job in jobs)
        before = f", {known} finished before" if known else ""
        count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
        return f"{count}, {self.settings.n_jobs} at a time, in {self.folder}{before}"

    def _command(self) -> list[str]:
        hydra = self.config.hydra
        folders = [
            source.path for source in hydra.runtime.config_sources if source.provider == "command-line"
        ]
        extra = [word for path in folders for word in ("--config-dir", path)]
        script = str(Path(sys.argv[0]).absolute())
        return [sys.executable, script, "--config-name", hydra.job.config_name, *extra]

    def _for_jobs(self) -> list[str]:
        return [word for word in self.config.hydra.overrides.hydra if not word.lstrip("+~").startswith(OWN)]


class Remembered:
    """Hydra's loader of configs, that composes a job once: a sweeper composes all to check them, and drops them.

    Args:
        loader: Hydra's.
        folder: the sweep's directory, which is taken away after a mistake.
    """

    def __init__(self, loader: Any, folder: Path) -> None:
        self.loader = loader
        self.folder = folder
        self._known: dict[tuple[str, ...], DictConfig] = {}
        self._bar = tqdm(desc="composing jobs", **_PATIENT)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of a job."""
        key = tuple(sweep_overrides)
        if key in self._known:
            self._bar.close()
            return self._known.pop(key)
        with tidied(self.folder):
            found: DictConfig = self.loader.load_sweep_config(master_config, sweep_overrides)
        self._known[key] = deepcopy(found)
        self._bar.update()
        return found

    def __getattr__(self, name: str) -> Any:
        """What else the loader has."""
        return getattr(self.loader, name)


# A bar on a terminal alone, and only when it takes long.
_PATIENT: dict[str, Any] = {"disable": None, "leave": False, "delay": 2, "unit": "job"}


def read_settings(node: DictConfig) -> Settings:
    """`hydra.launcher.*`, checked.

    Raises:
        UserError: for a setting out of range.
    """
    given: Any = OmegaConf.to_container(node, resolve=True)
    values = {key: value for key, value in given.items() if key != "_target_"}
    check_call({"_target_": f"{Settings.__module__}.Settings", **values}, "hydra.launcher")
    return Settings(**values)


def _check(raw: Any, config: Any, overrides: Sequence[str]) -> None:
    if "trainer" not in config:
        return check_config(raw, config)
    from latentlab.cli import training  # with Lightning, which checking a trainer imports anyway
    from latentlab.cli.compose import build

    training.check(raw, config, overrides)
    # What does not go together is refused when it is built.
    build(config["module"]).check(build(config["data"]))


@contextmanager
def _current(config: DictConfig) -> Iterator[None]:
    # ${hydra:...} is looked up in what is current.
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
