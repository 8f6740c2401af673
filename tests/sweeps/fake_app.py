"""A stand-in for train.py: it composes a config and runs `fake_job`."""

import sys
from pathlib import Path

import fake_job
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from latentlab.cli import command


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@command.one_line_errors()
def main(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    words = [f"{key}={value}" for key, value in cfg.items() if value is not None]
    sys.argv = [sys.argv[0], *words, f"hydra.run.dir={folder}"]
    fake_job.main()


if __name__ == "__main__":
    command.run(main)
