"""All OmegaConf resolvers of this project. Hydra imports this module at every start, so its imports are light."""

import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from latentlab.processes import devices
from latentlab.run.directory import RunDirectory


def run_name(now: str, trainer: Any) -> str:
    """Return the start of a run directory's name: the time, or a name that all ranks of a launcher share."""
    return devices.common_start(now) if devices.has_peers(trainer) else now


def requeued_checkpoint() -> str | None:
    """Return the last checkpoint of a run that SLURM has queued again, else None."""
    if not HydraConfig.initialized() or int(os.environ.get("SLURM_RESTART_COUNT", 0)) == 0:
        return None
    runtime = HydraConfig.get().runtime
    if OmegaConf.is_missing(runtime, "output_dir"):  # composed, but not run
        return None
    path = RunDirectory(Path(runtime.output_dir)).last_checkpoint
    return str(path) if path.exists() else None


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("requeued_checkpoint", requeued_checkpoint, replace=True)
