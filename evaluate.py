"""Score a checkpoint over the whole test set. `python evaluate.py --help` says how."""

from pathlib import Path
from typing import Literal

import hydra
from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveInt

from latentlab.cli.command import one_line_errors, run
from latentlab.cli.compose import build, build_each

SETTINGS = {
    "batch_size": PositiveInt,
    "samples": PositiveInt,
    "nll.samples": NonNegativeInt | None,
    "nll.chunk": PositiveInt,
    "figures.draw": bool,
    "wandb": bool,
    "accelerator": Literal["auto", "cpu", "gpu"],
}


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@one_line_errors()
def main(cfg: DictConfig) -> None:
    """Rebuild the model of a run, load the checkpoint's weights and write evaluation.json."""
    import pytorch_lightning as pl  # late, as importing Lightning takes seconds: --help answers at once

    from latentlab import evaluation
    from latentlab.callbacks import Figures
    from latentlab.cli import report as reports
    from latentlab.cli.checks import check_types
    from latentlab.cli.training import quieten_lightning
    from latentlab.figures.classical.callback import FigureCallback
    from latentlab.run.checkpoints import config_of, load_state, read_checkpoint
    from latentlab.tracking.wandb import add_results, check_joinable

    check_types(cfg, SETTINGS)
    state = read_checkpoint(cfg.ckpt_path)
    config = config_of(cfg.ckpt_path)
    run_directory = Path(cfg.ckpt_path).parent.parent
    directory = Path(cfg.output_dir or run_directory)
    if cfg.wandb:
        check_joinable(run_directory, config["logger"])
    moved = {"root": cfg.data.root} if cfg.data.root and "root" in config["data"] else {}
    data = build(config["data"], eval_batch_size=cfg.batch_size, **moved)
    module = build(config["module"], eval_samples=cfg.samples)
    nll_samples = evaluation.choose_nll_samples(module.model, cfg.nll.samples)
    load_state(module, state, cfg.ckpt_path)
    quieten_lightning()
    callbacks = build_each(config["callbacks"])
    drawn = (Figures, FigureCallback) if cfg.figures.draw else ()
    figures: list[pl.Callback] = [each for each in callbacks if isinstance(each, drawn)]
    trainer = pl.Trainer(
        accelerator=cfg.accelerator,
        devices=1,
        logger=False,
        callbacks=figures,
        default_root_dir=directory,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(module, data, verbose=False)
    found = evaluation.estimate(
        module.to(trainer.strategy.root_device).eval().model,
        data.test_dataloader(),
        data.num_examples["test"],
        data.protocol,
        module.results.get("test/elbo"),
        nll_samples,
        cfg.nll.chunk,
    )
    found = {f"test/{name}": value for name, value in found.items()}
    names = {**config["names"], "seed": config["seed"]}
    results = reports.conclude_evaluation(trainer, directory, names, found)
    if cfg.wandb:
        add_results(run_directory, config["logger"], results)


if __name__ == "__main__":
    run(main)
