"""`hydra/launcher=jobs`: every job of a multirun in a process of its own. Imported at every start of Hydra."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from latentlab.processes.devices import check_started_once
from latentlab.sweeps.jobs.naming import command_name, directory_name

if TYPE_CHECKING:
    from latentlab.sweeps.jobs.launch import Sweep

# The directories of a sweep and of a job. The first is one value for all jobs: cached, it is copied into their configs.
OmegaConf.register_new_resolver(
    "sweep_name", lambda: command_name(sys.argv[1:]), use_cache=True, replace=True
)
OmegaConf.register_new_resolver("job_name", directory_name, replace=True)


@final
class JobsLauncher(Launcher):
    """Runs the jobs of a multirun in processes of their own, and ends in a table.

    Args:
        settings: the keys of `latentlab.sweeps.jobs.settings.Settings`, read from the config again in `setup`.

    Attributes:
        sweep: what prepares and runs jobs; for sweepers with a loop of their own.
    """

    sweep: "Sweep"

    def __init__(self, **settings: Any) -> None:
        super().__init__()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Read the settings, and make the directory of the sweep.

        Raises:
            UserError: for a setting out of range, a directory that cannot be made, or under torchrun.
        """
        from latentlab.sweeps.jobs.launch import (  # late: only a multirun needs what they import
            Remembered,
            Sweep,
        )
        from latentlab.sweeps.jobs.lock import make

        check_started_once(many_workers=True)
        self.sweep = Sweep(hydra_context.config_loader, config)
        loader: Any = Remembered(hydra_context.config_loader, self.sweep.folder)
        hydra_context.config_loader = self.sweep.loader = loader
        make(self.sweep.folder)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run jobs; each returns its metric.

        Raises:
            UserError: for a mistake in any job, or under srun, before the first starts; when some job did not
                succeed, at the end.
        """
        from latentlab.sweeps.jobs.lock import tidied
        from latentlab.sweeps.jobs.table import common_metric, metric_of

        with tidied(self.sweep.folder):
            check_started_once(many_workers=False)
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
