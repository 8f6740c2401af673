"""The settings that are paths. `~` is expanded in each, and a relative path starts where the command was started."""

import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from latentlab.cli.overrides import quoted
from latentlab.tracking.artifacts import download, is_artifact

PATHS = (
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.sweeper.storage.path"),
    *("ckpt_path", "resume", "run", "output_dir"),
    *("data.root", "data.path", "data.source.path", "model.pretrained"),
)
# The paths that may be the name of an artifact of W&B: those of a run directory, and those of a checkpoint.
RUNS, CHECKPOINTS = ("run",), ("ckpt_path", "model.pretrained")
_HOME = re.compile(rf"(\+*(?:{'|'.join(map(re.escape, PATHS))}))=(['\"]?)(~.*)\2", re.DOTALL)


def with_home(word: str) -> str:
    """Return an override with `~` expanded if its value is a path, and other words unchanged."""
    found = _HOME.fullmatch(word)
    return quoted(found[1], Path(found[3]).expanduser()) if found else word


def settle(cfg: DictConfig) -> None:
    """Expand `~` in every path of a composed config, and download the artifacts of W&B that it names.

    `hydra.job.chdir=true` runs a job in its run directory, so relative paths become absolute too.
    """
    job = HydraConfig.get()
    for key in PATHS:
        value = OmegaConf.select(cfg, key)
        elsewhere = isinstance(value, str) and (job.job.chdir or value.startswith("~"))
        if elsewhere and not is_artifact(value):
            OmegaConf.update(cfg, key, str(Path(job.runtime.cwd, Path(value).expanduser())))
        elif isinstance(value, str) and key in (*RUNS, *CHECKPOINTS) and is_artifact(value):
            run = download(value, key)
            OmegaConf.update(cfg, key, str(run.path if key in RUNS else run.best_checkpoint))
