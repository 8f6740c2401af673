"""The command that trains an experiment, from its config to its report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from latentlab.cli.build import start_ranks
from latentlab.cli.command import one_line_errors, run
from latentlab.cli.script import conf_folder

if TYPE_CHECKING:
    from latentlab.cli.experiment import Experiment


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
@one_line_errors()
def command(cfg: DictConfig) -> None:
    """Train one experiment in its run directory, and print its report."""
    from hydra.core.hydra_config import HydraConfig

    # Lightning takes seconds to import, and --help answers at once.
    from latentlab.cli import report

    job = HydraConfig.get()
    report.show(train(cfg, job), Path(job.runtime.output_dir))


def train(cfg: DictConfig, job: Any) -> dict[str, Any]:
    """Train one experiment and evaluate it on the test set. Nothing is written before `begin`.

    Args:
        cfg: the composed config.
        job: Hydra's own config of the job.

    Returns:
        The summary of the run on the first rank, {} elsewhere.
    """
    from latentlab.cli import experiment

    return fit(experiment.compose(cfg, job), cfg, job)


def fit(chosen: "Experiment", cfg: DictConfig, job: Any) -> dict[str, Any]:
    """Train a checked experiment, see `train`."""
    from latentlab.callbacks import Signals
    from latentlab.cli import report, training
    from latentlab.nn.compiled import compile_networks

    directory = Path(job.runtime.output_dir)
    config = chosen.config
    with training.owned(directory, config):
        if start_ranks(job, config["trainer"]):
            return {}
        training.seed(config)
        data, module = chosen.parts()
        done = training.restore(module, config["ckpt_path"])
        callbacks = chosen.callbacks()
        validates = data.validates and config["trainer"].get("limit_val_batches") != 0
        training.check_callbacks(callbacks, validates)
        training.check_precision(config["trainer"])
        trainer = chosen.build(
            "trainer",
            callbacks=[*callbacks, Signals()],
            logger=False,  # the loggers start after `begin`
            default_root_dir=directory,
            plugins=training.plugins(config["trainer"]),
        )
        training.check_parts(trainer, module, data, config)
        if config["compile"]:
            compile_networks(module.model)
        loggers = chosen.loggers(directory)
        training.begin(directory, cfg, job, config, done)
        with training.tracked(trainer, loggers, config), training.profiled(trainer, directory):
            trainer.fit(module, data, ckpt_path=config["ckpt_path"], weights_only=True)
            best = training.best_checkpoint(directory)
            trainer.test(module, data, ckpt_path=best, weights_only=True, verbose=False)
            return report.conclude(trainer, directory, {**config["names"], "seed": config["seed"]})


def main() -> None:
    """Run the command of this process."""
    run(command)
