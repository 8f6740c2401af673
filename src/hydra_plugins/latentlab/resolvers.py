"""All OmegaConf resolvers of this project. Hydra imports this module at every start, so its imports are light."""

import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from latentlab.cli.script import typed
from latentlab.processes import devices
from latentlab.run.directory import RunDirectory
from latentlab.sweeps.jobs.naming import command_name, directory_name


def run_name(now: str, trainer: Any) -> str:
    """Return the start of a run directory's name: the time, or a name that all ranks of a launcher share."""
    return devices.common_start(now) if devices.has_peers(trainer) else now


def requeued_checkpoint() -> str | None:
    """Return the run's last checkpoint if SLURM has requeued this job, else None."""
    if not HydraConfig.initialized() or int(os.environ.get("SLURM_RESTART_COUNT", 0)) == 0:
        return None
    runtime = HydraConfig.get().runtime
    if OmegaConf.is_missing(runtime, "output_dir"):  # composed but not run
        return None
    path = RunDirectory(Path(runtime.output_dir)).resumable_checkpoint()
    return None if path is None else str(path)


def data_name(option: str, data: Any) -> str:
    """Return the name of a data set in results, which tells it from every other one."""
    from latentlab.cli.build import name_of_data  # late, as the others are light

    return name_of_data(option, data)


def sweep_name() -> str:
    """Return the directory name of the sweep on this command line."""
    return command_name(sys.argv[1:])


OmegaConf.register_new_resolver("command", typed, replace=True)  # for --help
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("data_name", data_name, replace=True)
OmegaConf.register_new_resolver("requeued_checkpoint", requeued_checkpoint, replace=True)
# Cached, so that all jobs of a sweep get the same value.
OmegaConf.register_new_resolver("sweep_name", sweep_name, use_cache=True, replace=True)
OmegaConf.register_new_resolver("job_name", directory_name, replace=True)
