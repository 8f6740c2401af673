"""The command that trains an experiment, from its config to its report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from latentlab.cli.build import start_ranks
from latentlab.cli.command import one_line_errors, run
from latentlab.cli.script import conf_folder
from latentlab.processes import phases

if TYPE_CHECKING:
    from latentlab.cli.experiment import Experiment


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
@one_line_errors()
def command(cfg: DictConfig) -> None:
    """Train one experiment in its run directory, and print its report."""
    phases.reached("config")
    from hydra.core.hydra_config import HydraConfig

    # Lightning takes seconds to import, and --help answers at once.
    from latentlab.cli import expost, report

    job = HydraConfig.get()
    summary = train(cfg, job)
    report.show(summary, Path(job.runtime.output_dir))
    expost.show(summary, cfg.run)


def train(cfg: DictConfig, job: Any) -> dict[str, Any]:
    """Train one experiment and evaluate it on the test set. Nothing is written before `begin`.

    Args:
        cfg: the composed config.
        job: Hydra's own config of the job.

    Returns:
        The summary of the run on the first rank, {} elsewhere.
    """
    from latentlab.cli import experiment

    phases.reached("imports")
    chosen = experiment.compose(cfg, job)
    phases.reached("checks of the config")
    return fit(chosen, cfg, job)


def fit(chosen: "Experiment", cfg: DictConfig, job: Any) -> dict[str, Any]:
    """Train a checked experiment, see `train`."""
    from latentlab.callbacks import Signals
    from latentlab.cli import report, training
    from latentlab.lit.compiled import compile_objective

    directory = Path(job.runtime.output_dir)
    config = chosen.config
    with training.owned(directory, config), training.denormals_flushed():
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
        phases.reached("model and trainer")
        training.check_parts(trainer, module, data, config)
        phases.reached("rehearsal")
        if config["compile"]:
            compile_objective(module)
        loggers = chosen.loggers(directory)
        training.use_threads(trainer, module, data)
        training.begin(directory, cfg, job, config, done)
        phases.reached("first files")
        with training.profiled(trainer, directory), training.tracked(trainer, loggers, config):
            phases.reached("loggers")
            trainer.fit(module, data, ckpt_path=config["ckpt_path"], weights_only=True)
            phases.reached("training")
            best = training.best_checkpoint(directory)
            trainer.test(module, data, ckpt_path=best, weights_only=True, verbose=False)
            phases.reached("test")
            summary = report.conclude(trainer, directory, {**config["names"], "seed": config["seed"]})
            phases.reached("report")
        return summary


def main() -> None:
    """Run the command of this process."""
    phases.begin()
    phases.reached("Python and Hydra")
    run(command)
