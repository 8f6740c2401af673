"""`hydra/launcher=jobs`: each job of a multirun in its own process.

Hydra imports this module at every start, so that slow imports stand inside functions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from latentlab.processes.devices import check_started_once

if TYPE_CHECKING:
    from rich.status import Status as Spinner

    from latentlab.sweeps.jobs.sweep import Sweep


@final
class JobsLauncher(Launcher):
    """Runs each job of a multirun in its own process, and prints a table at the end.

    Args:
        settings: the keys of `latentlab.sweeps.jobs.job.Settings`. `setup` reads them from the config.

    Attributes:
        sweep: prepares and runs the jobs. A search uses it to start single jobs.
    """

    sweep: "Sweep"
    _spinner: "Spinner"

    def __init__(self, **settings: Any) -> None:
        super().__init__()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Read the settings and make the directory of the sweep.

        Raises:
            UserError: if a setting is out of range, the directory cannot be made, or torchrun started this process.
        """
        from latentlab.cli.screen import terminal
        from latentlab.sweeps.jobs.directory import make_sweep
        from latentlab.sweeps.jobs.sweep import CachedLoader, Sweep

        check_started_once(many_workers=True)
        self.sweep = Sweep(hydra_context.config_loader, config)
        self._spinner = terminal().status("composing and checking jobs")
        loader: Any = CachedLoader(hydra_context.config_loader, self.sweep.folder, self._spinner)
        hydra_context.config_loader = self.sweep.loader = loader
        make_sweep(self.sweep.folder)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run jobs and return their metrics.

        Raises:
            UserError: before the first job, for a mistake in any job or under srun. After the last job, if any job
                did not succeed.
        """
        from latentlab.sweeps.jobs.directory import removed_if_unused
        from latentlab.sweeps.jobs.report import common_metric, metric_of

        with removed_if_unused(self.sweep.folder):
            check_started_once(many_workers=False)
            with self._spinner:
                jobs = self.sweep.prepare_all(job_overrides, initial_job_idx)
            outcomes = self.sweep.run(jobs)
        name = common_metric(outcomes, self.sweep.settings.metric)
        return [
            JobReturn(
                overrides=list(overrides),
                cfg=OmegaConf.create(dict(outcome.job.config)),
                working_dir=str(outcome.job.directory),
                status=JobStatus.COMPLETED,
                _return_value=metric_of(outcome.summary, name)[1],
            )
            for overrides, outcome in zip(job_overrides, outcomes, strict=True)
        ]
