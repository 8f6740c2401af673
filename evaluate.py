"""Score a checkpoint over the whole test set. `python evaluate.py --help` says how."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from latentlab import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@cli.one_line_errors()
def main(cfg: DictConfig) -> None:
    """Rebuild the model of a run, load the checkpoint and write evaluation.json."""
    import pytorch_lightning as pl
    from hydra.utils import instantiate

    from latentlab import evaluation, runs

    config = runs.read_config(cfg.ckpt_path)
    state = runs.read_checkpoint(cfg.ckpt_path)
    directory = Path(cfg.output_dir or Path(cfg.ckpt_path).parent.parent)
    root = {"root": cfg.data.root} if cfg.data.root and "root" in config["data"] else {}
    data = instantiate(config["data"], eval_batch_size=cfg.batch_size, **root)
    module = instantiate(config["module"], eval_samples=cfg.samples)
    runs.load_state(module, state)
    runs.quieten_lightning()
    figures = [instantiate(node) for node in config["callbacks"].values() if node and cfg.figures]
    trainer = pl.Trainer(
        accelerator=cfg.accelerator, devices=1, logger=False, default_root_dir=directory, callbacks=figures
    )
    trainer.test(module, data, verbose=False)


if __name__ == "__main__":
    cli.run(main, "evaluate")
