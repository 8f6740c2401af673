"""The command that evaluates a run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from latentlab.cli.command import explained, one_line_errors
from latentlab.cli.command import run as run_command
from latentlab.cli.screen import warn
from latentlab.cli.script import conf_folder
from latentlab.errors import UserError

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="evaluate")
@one_line_errors()
def command(cfg: DictConfig) -> None:
    """Evaluate one or several runs, and print their report."""
    # Lightning takes seconds to import, and --help answers at once.
    from hydra.core.hydra_config import HydraConfig

    from latentlab.cli import evaluating, report

    runs = evaluating.runs(cfg)
    if evaluating.start_processes(cfg, HydraConfig.get(), len(runs)):
        return
    if len(runs) > 1:
        evaluate_all(cfg, runs)
    else:
        report.show(*evaluate(cfg, *runs))


def evaluate_all(cfg: DictConfig, runs: Sequence[str]) -> None:
    """Evaluate several runs one after the other, and print a table of their results.

    A run that fails is named, and the others are evaluated.

    Raises:
        UserError: at the end, if a run has failed.
    """
    from latentlab.cli import report

    results: dict[Path, Mapping[str, Any]] = {}
    for number, run in enumerate(runs, start=1):
        try:
            with explained():
                found, directory = evaluate(cfg, run)
        except Exception as error:  # the other runs are evaluated in any case
            reason = " ".join(str(error).split())
            warn(f"{run}: {reason if isinstance(error, UserError) else f'{type(error).__name__}: {reason}'}")
            log.debug("the evaluation of %s failed", run, exc_info=True)
        else:
            results[directory] = found
            report.show_line(found, f"{number} of {len(runs)}: {run}")
    report.show_experiments(results)
    if failed := len(runs) - len(results):
        raise UserError(f"{failed} of {len(runs)} runs could not be evaluated")


def evaluate(cfg: DictConfig, run: str | None = None) -> tuple[dict[str, Any], Path]:
    """Rebuild the model of a run, evaluate it on the test set and write evaluation.json.

    Args:
        cfg: the composed config.
        run: the run, None for that of the config.

    Returns:
        The results on the first rank, {} elsewhere, and the folder of evaluation.json.

    Raises:
        UserError: if a run of the zoo does not reproduce its number. The results are written all the same.
    """
    from latentlab.cli import evaluating, export, measures, report
    from latentlab.run.directory import RunDirectory
    from latentlab.run.files import sha256
    from latentlab.run.results import CHECKPOINT, DIGEST
    from latentlab.tracking.wandb import add_results, check_joinable
    from latentlab.trained import Trained
    from latentlab.zoo import verified

    if run is not None:
        cfg = OmegaConf.merge(cfg, {"run": run})  # type: ignore[assignment]  # a copy
    trained = evaluating.read(cfg)
    config, place = trained.config, RunDirectory.of_checkpoint(trained.checkpoint)
    place.check_links(
        (place.evaluation, place.geodesics, place.figures, place.export, place.wandb, place.wandb_id)
    )
    if cfg.wandb:
        check_joinable(place.path, config["logger"])
    module, data = evaluating.rebuild(cfg, trained)
    directory = Path(cfg.output_dir or place.path)
    trainer = evaluating.trainer(cfg, trained, directory)
    needed = cfg.export or measures.asked(cfg)
    loaded = Trained(trained, str(trainer.strategy.root_device), data=data) if needed else None
    asked = measures.chosen(cfg, loaded) if loaded else []
    if loaded:
        export.check(export.chosen(cfg), loaded)
    trainer.test(module, data, verbose=False)
    estimates = evaluating.estimates(cfg, trainer, module, data)
    if not trainer.is_global_zero:
        return {}, directory
    for measure in asked:
        estimates |= measure.results()
    names = {**config["names"], "seed": config["seed"]}
    settings = {
        CHECKPOINT: trained.checkpoint.name,
        DIGEST: sha256(trained.checkpoint),
        **({} if cfg.split == "test" else {"split": cfg.split}),
        "samples": module.eval_samples,
        "batch_size": cfg.batch_size,
        "nll.samples": estimates.get(f"{cfg.split}/nll_samples", 0),
        "mutual_information.examples": (
            cfg.mutual_information.examples if f"{cfg.split}/mutual_information_limit" in estimates else 0
        ),
        **{f"sampling.{name}": value for name, value in cfg.sampling.items() if value is not None},
        **{key: value for measure in asked for key, value in measure.settings().items()},
    }
    results = report.conclude_evaluation(trainer, directory, names, estimates, settings)
    if loaded and cfg.export:
        export.write(cfg, loaded, RunDirectory(directory).export)
    if cfg.wandb:
        add_results(place.path, config["logger"], results)
    if verdict := verified(place, results):
        log.info(verdict)
    return results, directory


def main() -> None:
    """Run the command of this process."""
    run_command(command)
