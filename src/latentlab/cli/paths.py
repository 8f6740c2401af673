"""The settings that are paths. `~` is expanded in each, and a relative path starts where the command was started."""

import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from latentlab.cli.overrides import quoted

PATHS = (
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.sweeper.storage.path"),
    *("ckpt_path", "resume", "run", "output_dir"),
    *("data.root", "data.path", "data.source.path", "model.pretrained"),
)
_HOME = re.compile(rf"(\+*(?:{'|'.join(map(re.escape, PATHS))}))=(['\"]?)(~.*)\2", re.DOTALL)


def with_home(word: str) -> str:
    """Return an override with `~` expanded if its value is a path, and other words unchanged."""
    found = _HOME.fullmatch(word)
    return quoted(found[1], Path(found[3]).expanduser()) if found else word


def settle(cfg: DictConfig) -> None:
    """Expand `~` in every path of a composed config.

    `hydra.job.chdir=true` runs a job in its run directory, so relative paths become absolute too.
    """
    job = HydraConfig.get()
    for key in PATHS:
        value = OmegaConf.select(cfg, key)
        if isinstance(value, str) and (job.job.chdir or value.startswith("~")):
            OmegaConf.update(cfg, key, str(Path(job.runtime.cwd, Path(value).expanduser())))
