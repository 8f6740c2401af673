"""Evaluate a checkpoint over the whole test set: `python evaluate.py --help` lists the options."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from latentlab.cli.command import one_line_errors, run


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@one_line_errors()
def main(cfg: DictConfig) -> None:
    """Rebuild the model of a run, evaluate it on the test set and write evaluation.json."""
    # Lightning takes seconds to import, and --help answers at once.
    from latentlab.cli import evaluating, report
    from latentlab.run.directory import RunDirectory
    from latentlab.tracking.wandb import add_results, check_joinable

    checkpoint, state, config = evaluating.read(cfg)
    found = RunDirectory.of_checkpoint(checkpoint)
    found.check_links((found.evaluation, found.figures, found.wandb, found.wandb_id))
    run_directory = found.path
    if cfg.wandb:
        check_joinable(run_directory, config["logger"])
    module, data = evaluating.rebuild(cfg, config, checkpoint, state)
    directory = Path(cfg.output_dir or run_directory)
    trainer = evaluating.trainer(cfg, config["callbacks"], directory)
    trainer.test(module, data, verbose=False)
    estimates = evaluating.estimates(cfg, trainer, module, data)
    names = {**config["names"], "seed": config["seed"]}
    results = report.conclude_evaluation(trainer, directory, names, estimates)
    if cfg.wandb:
        add_results(run_directory, config["logger"], results)


if __name__ == "__main__":
    run(main)
