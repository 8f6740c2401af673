"""Compose an experiment, train it, score the test set. `python train.py --help` says how."""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from latentlab import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@cli.one_line_errors()
def main(cfg: DictConfig) -> None:
    """Train one experiment in its run directory."""
    from hydra.core.hydra_config import HydraConfig

    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    raw: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    hydra_config = HydraConfig.get()
    if cli.start_ranks(hydra_config, config["trainer"]):
        return
    from latentlab.callbacks import OwnSignals
    from latentlab.cli import report as reports
    from latentlab.cli import (
        training as runs,  # late, as importing Lightning takes seconds: --help answers at once
    )
    from latentlab.nn.compiled import compile_networks
    from latentlab.run.checkpoints import load_state, read_checkpoint

    runs.check(raw, config, hydra_config.overrides.task)
    directory = Path(hydra_config.runtime.output_dir)
    runs.begin(directory, config, cfg.seed, cfg.ckpt_path, cfg.validate_args)
    data, module = cli.build(cfg.data), cli.build(cfg.module)
    module.check(data)
    if cfg.ckpt_path is not None:
        load_state(module, read_checkpoint(cfg.ckpt_path), cfg.ckpt_path)
    callbacks = cli.build_each(cfg.callbacks)
    runs.check_callbacks(callbacks, validates=data.val_size > 0)
    if cfg.compile:
        compile_networks(module.model)
    logger = cli.build(cfg.logger, save_dir=directory) if cfg.logger._target_ else None
    with runs.tracked(directory, logger, config) as loggers:
        trainer = cli.build(
            cfg.trainer,
            callbacks=[*callbacks, OwnSignals()],
            logger=loggers,
            default_root_dir=directory,
            plugins=runs.plugins(config["trainer"]),
        )
        trainer.fit(module, data, ckpt_path=cfg.ckpt_path, weights_only=True)
        best = runs.best_checkpoint(directory)
        trainer.test(module, data, ckpt_path=best, weights_only=True, verbose=False)
        summary = reports.conclude(trainer, directory, {**config["names"], "seed": cfg.seed})
    reports.show(summary, directory)


if __name__ == "__main__":
    cli.run(main, "train")
