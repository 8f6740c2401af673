"""Train an experiment and evaluate it on the test set: `python train.py --help` lists the options."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from latentlab.cli.build import start_ranks
from latentlab.cli.command import one_line_errors, run


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@one_line_errors()
def main(cfg: DictConfig) -> None:
    """Train one experiment in its run directory. Nothing is written before `begin`."""
    from hydra.core.hydra_config import HydraConfig

    # Lightning takes seconds to import, and --help answers at once.
    from latentlab.callbacks import Signals
    from latentlab.cli import report, training
    from latentlab.nn.compiled import compile_networks

    job = HydraConfig.get()
    directory = Path(job.runtime.output_dir)
    experiment = training.compose(cfg, job)
    config = experiment.config
    with training.owned(directory, config):
        if start_ranks(job, config["trainer"]):
            return
        training.seed(config)
        data, module = experiment.build("data"), experiment.build("module")
        module.check(data)
        done = training.restore(module, config["ckpt_path"])
        callbacks = experiment.callbacks()
        training.check_callbacks(callbacks, validates=data.val_size > 0)
        trainer = experiment.build(
            "trainer",
            callbacks=[*callbacks, Signals()],
            logger=False,  # the loggers start after `begin`
            default_root_dir=directory,
            plugins=training.plugins(config["trainer"]),
        )
        training.check_parts(trainer, module, data, config)
        if config["compile"]:
            compile_networks(module.model)
        loggers = experiment.loggers(directory)
        training.begin(directory, cfg, job, config, done)
        with training.tracked(trainer, loggers, config):
            trainer.fit(module, data, ckpt_path=config["ckpt_path"], weights_only=True)
            best = training.best_checkpoint(directory)
            trainer.test(module, data, ckpt_path=best, weights_only=True, verbose=False)
            summary = report.conclude(trainer, directory, {**config["names"], "seed": config["seed"]})
        report.show(summary, directory)


if __name__ == "__main__":
    run(main)
