"""Train an experiment and evaluate it on the test set: `python train.py --help` lists the options."""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from latentlab.cli.build import build, build_each, start_ranks
from latentlab.cli.command import one_line_errors, run


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@one_line_errors()
def main(cfg: DictConfig) -> None:
    """Train one experiment in its run directory."""
    from hydra.core.hydra_config import HydraConfig

    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    raw: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    hydra_config = HydraConfig.get()
    if start_ranks(hydra_config, config["trainer"]):
        return
    # Lightning takes seconds to import, and --help answers at once.
    from latentlab.callbacks import OwnSignals
    from latentlab.cli import report, training
    from latentlab.nn.compiled import compile_networks
    from latentlab.run.checkpoints import load_state, read_checkpoint

    training.check(raw, config, hydra_config.overrides.task)
    directory = Path(hydra_config.runtime.output_dir)
    training.begin(directory, config, cfg.seed, cfg.ckpt_path, cfg.validate_args)
    data, module = build(cfg.data), build(cfg.module)
    module.check(data)
    if cfg.ckpt_path is not None:
        load_state(module, read_checkpoint(cfg.ckpt_path), cfg.ckpt_path)
    callbacks = build_each(cfg.callbacks)
    training.check_callbacks(callbacks, validates=data.val_size > 0)
    if cfg.compile:
        compile_networks(module.model)
    logger = build(cfg.logger, save_dir=directory) if cfg.logger._target_ else None
    with training.tracked(directory, logger, config) as loggers:
        trainer = build(
            cfg.trainer,
            callbacks=[*callbacks, OwnSignals()],
            logger=loggers,
            default_root_dir=directory,
            plugins=training.plugins(config["trainer"]),
        )
        trainer.fit(module, data, ckpt_path=cfg.ckpt_path, weights_only=True)
        best = training.best_checkpoint(directory)
        trainer.test(module, data, ckpt_path=best, weights_only=True, verbose=False)
        summary = report.conclude(trainer, directory, {**config["names"], "seed": cfg.seed})
    report.show(summary, directory)


if __name__ == "__main__":
    run(main)
