"""The sweeper of `sweep=optuna`, and what a job that was queued again goes on from; imported at every start."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf


def requeued_checkpoint() -> str | None:
    """The last checkpoint of the run directory, for a job that SLURM has put back into its queue; else None."""
    if not HydraConfig.initialized() or int(os.environ.get("SLURM_RESTART_COUNT", 0)) == 0:
        return None
    runtime = HydraConfig.get().runtime
    if OmegaConf.is_missing(runtime, "output_dir"):  # composed, but not run
        return None
    path = Path(runtime.output_dir) / "checkpoints" / "last.ckpt"
    return str(path) if path.exists() else None


OmegaConf.register_new_resolver("requeued_checkpoint", requeued_checkpoint, replace=True)
