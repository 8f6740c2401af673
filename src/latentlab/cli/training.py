"""A training run: checked, begun in its directory, tracked while it lasts."""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment
from pytorch_lightning.plugins.io import CheckpointIO, TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.distributions import Distribution

from latentlab.callbacks import BestCheckpoint, LastCheckpoint, Timing
from latentlab.cli.checks import check_config, check_types, check_used
from latentlab.errors import UserError
from latentlab.processes import devices
from latentlab.run.checkpoints import read_checkpoint
from latentlab.run.config import write_config
from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import MetricsFile
from latentlab.run.resuming import check_resumed
from latentlab.tracking.csv_logger import CSVMetrics
from latentlab.tracking.record import finish

# What Lightning would take, and stumble over later.
SETTINGS = {
    "seed": Annotated[int, Field(ge=0, lt=2**32)],
    "validate_args": bool,
    "compile": bool,
    "names": dict[str, str],
    "trainer.max_epochs": Annotated[int, Field(ge=-1)] | None,
    "trainer.num_nodes": PositiveInt,
    "trainer.precision": Literal["32-true", "bf16-mixed", "16-mixed", "64-true"],
    "trainer.gradient_clip_val": NonNegativeFloat | None,
    "trainer.accumulate_grad_batches": PositiveInt,
    "trainer.check_val_every_n_epoch": PositiveInt | None,
    "trainer.log_every_n_steps": NonNegativeInt | None,
}


def check(raw: Mapping[str, Any], config: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Check a composed experiment against the code it names, before anything of it is built.

    Args:
        raw: its config with its interpolations.
        config: its config without.
        overrides: the arguments of the command line.

    Raises:
        UserError: for the first setting out of range, group that changes nothing, or unknown or ill-typed argument.
    """
    check_types(config, SETTINGS)
    check_used(raw, overrides, config["names"]["model"])
    check_config(raw, config)


def begin(
    directory: Path, config: Mapping[str, Any], seed: int, ckpt_path: str | None, validate_args: bool
) -> None:
    """Start a run: seeds, switches, and config.yaml in `directory`, which the first of several processes writes.

    Raises:
        UserError: when `directory` holds another run, `ckpt_path` cannot be read or is of a run with other settings.
    """
    done = 0
    if ckpt_path is not None:
        done = read_checkpoint(ckpt_path)["global_step"]
        check_resumed(config, ckpt_path)
    elif (directory / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"{directory} already holds a run: resume it with ckpt_path={directory}/checkpoints/last.ckpt, "
            "or choose another hydra.run.dir"
        )
    rank = devices.rank(config["trainer"])
    # Lightning has it from variables that tasks of a batch system have too when they are runs of their own.
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if rank > 0:
        devices.hush()
    quieten_lightning()
    pl.seed_everything(seed, workers=True, verbose=False)
    Distribution.set_default_validate_args(validate_args)
    if rank == 0:
        write_config(RunDirectory(directory).config, config)
        MetricsFile(RunDirectory(directory).metrics).rewind(done)


class Checkpoints(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoints; it reads those of older versions too."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_checkpoint(path)


def plugins(trainer: Mapping[str, Any]) -> list[ClusterEnvironment | CheckpointIO]:
    """Return the plugins of the trainer."""
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    # Lightning would take tasks of SLURM for the ranks of one run, where each task runs an experiment.
    alone = [LightningEnvironment()] if tasks > 1 and not devices.has_peers(trainer) else []
    return [*alone, Checkpoints()]


def check_callbacks(callbacks: Sequence[pl.Callback], validates: bool) -> None:
    """Check that a run has the callbacks that its results are read from, and a validation set where one is watched.

    Raises:
        UserError: naming the entry of the group `callbacks`.
    """
    for name, kind in {"best": BestCheckpoint, "last": LastCheckpoint, "timing": Timing}.items():
        if not any(isinstance(callback, kind) for callback in callbacks):
            raise UserError(f"callbacks.{name} is needed: leave it in (callbacks=none draws no figures)")
    if not validates and any(isinstance(callback, EarlyStopping) for callback in callbacks):
        raise UserError(
            "callbacks.early_stopping watches val/elbo, but data.val_size=0 leaves no validation set"
        )


def best_checkpoint(directory: Path) -> Path:
    """The checkpoint of a trained run that is scored.

    Raises:
        UserError: when no epoch made one.
    """
    path = directory / "checkpoints" / "best.ckpt"
    if not path.exists():
        raise UserError(
            "no epoch ended with a finite validation bound, so that there is nothing to score: "
            "raise trainer.max_epochs, or lower trainer.check_val_every_n_epoch"
        )
    return path


@contextmanager
def tracked(directory: Path, logger: Logger | None, config: Mapping[str, Any]) -> Iterator[list[Logger]]:
    """The loggers of a run, metrics.csv always among them, closed with the run's own exit status."""
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
    """Lightning's notices about devices and tips off; its warnings stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.15: a warning about its own use of torch.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    # What is logged at the end of an epoch is the same on all ranks already.
    warnings.filterwarnings("ignore", message=r"It is recommended to use .*sync_dist=True")
