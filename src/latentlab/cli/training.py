"""The course of a training run: check the experiment, begin in its directory, track it, find the checkpoint to test."""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.distributions import Distribution

from latentlab.callbacks import BestCheckpoint, Checkpoints, LastCheckpoint, Timing
from latentlab.cli.checks import check_config, check_types, check_underflow, check_used
from latentlab.cli.ranges import SETTINGS
from latentlab.errors import UserError
from latentlab.processes import devices
from latentlab.run.checkpoints import read_checkpoint
from latentlab.run.config import write_config
from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import MetricsFile
from latentlab.run.resuming import check_resumed
from latentlab.tracking.csv_logger import CSVMetrics
from latentlab.tracking.record import finish


def check(raw: Mapping[str, Any], config: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Check a composed experiment before anything is built.

    Args:
        raw: the config with interpolations.
        config: the config without interpolations.
        overrides: the arguments of the command line.

    Raises:
        UserError: for a setting out of range, a group without an effect, or an unknown or ill-typed argument.
    """
    check_underflow(overrides)
    check_types(config, SETTINGS)
    check_used(raw, overrides, config["names"]["model"])
    check_config(raw, config)


def begin(
    directory: Path, config: Mapping[str, Any], seed: int, ckpt_path: str | None, validate_args: bool
) -> None:
    """Seed the run, and write config.yaml on the first rank.

    A resumed run removes the rows of metrics.csv that it writes again.

    Raises:
        UserError: if `directory` holds another run, or `ckpt_path` cannot be resumed with these settings.
    """
    run, done = RunDirectory(directory), 0
    if ckpt_path is not None:
        done = read_checkpoint(ckpt_path)["global_step"]
        check_resumed(config, ckpt_path)
    elif run.last_checkpoint.exists():
        raise UserError(
            f"{directory} already holds a run: resume it with ckpt_path={run.last_checkpoint}, "
            "or choose another hydra.run.dir"
        )
    rank = devices.rank(config["trainer"])
    # Lightning reads the rank from SLURM's variables, also when each SLURM task is a separate run.
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if rank > 0:
        devices.hush()
    quieten_lightning()
    pl.seed_everything(seed, workers=True, verbose=False)
    Distribution.set_default_validate_args(validate_args)
    if rank == 0:
        write_config(run.config, config)
        MetricsFile(run.metrics).rewind(done)


def plugins(trainer: Mapping[str, Any]) -> list[ClusterEnvironment | CheckpointIO]:
    """Return the plugins of the trainer."""
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    # Lightning would take SLURM tasks for the ranks of one run, although each task is a separate run.
    alone = [LightningEnvironment()] if tasks > 1 and not devices.has_peers(trainer) else []
    return [*alone, Checkpoints()]


def check_callbacks(callbacks: Sequence[pl.Callback], validates: bool) -> None:
    """Check that the callbacks behind the summary are there, and that early stopping has a validation set.

    Raises:
        UserError: with the entry of the group `callbacks`.
    """
    for name, kind in {"best": BestCheckpoint, "last": LastCheckpoint, "timing": Timing}.items():
        if not any(isinstance(callback, kind) for callback in callbacks):
            raise UserError(f"callbacks.{name} is needed: leave it in (callbacks=none draws no figures)")
    if not validates and any(isinstance(callback, EarlyStopping) for callback in callbacks):
        raise UserError(
            "callbacks.early_stopping watches val/elbo, but data.val_size=0 leaves no validation set"
        )


def best_checkpoint(directory: Path) -> Path:
    """Return the checkpoint of a trained run that is tested.

    Raises:
        UserError: if no epoch wrote one.
    """
    path = RunDirectory(directory).best_checkpoint
    if not path.exists():
        raise UserError(
            "there is nothing to evaluate, because no epoch ended with a finite validation bound: "
            "raise trainer.max_epochs, or lower trainer.check_val_every_n_epoch"
        )
    return path


@contextmanager
def tracked(directory: Path, logger: Logger | None, config: Mapping[str, Any]) -> Iterator[list[Logger]]:
    """Yield the loggers of a run, metrics.csv first, and close them with the run's exit status."""
    loggers = [CSVMetrics(str(directory)), *([logger] if logger is not None else [])]
    for each in loggers:
        each.log_hyperparams(dict(config))
    try:
        yield loggers
    except BaseException:
        finish(loggers, exit_code=1)
        raise
    finish(loggers, exit_code=0)


def quieten_lightning() -> None:
    """Silence Lightning's notices and tips, but not its warnings."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.15 warns of a deprecated call that Lightning makes.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    # The values logged at the end of an epoch are the same on all ranks already.
    warnings.filterwarnings("ignore", message=r"It is recommended to use .*sync_dist=True")
