"""The life of a training run: own its directory, check the parts, begin, track, find the checkpoint to test."""

import logging
import os
import shlex
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from torch.distributions import Distribution

from latentlab.callbacks import (
    BestCheckpoint,
    Checkpoints,
    Figures,
    GradientSkip,
    GradientVariance,
    LastCheckpoint,
    Timing,
)
from latentlab.callbacks.resuming import PLACE
from latentlab.cli import resume
from latentlab.cli.command import handle
from latentlab.cli.rehearsal import rehearse
from latentlab.cli.screen import show_table, terminal
from latentlab.cli.script import CALLED, typed, words
from latentlab.data import FileData, ImageData
from latentlab.data.module import DataModule
from latentlab.errors import Diverged, UserError
from latentlab.lit.base import LitModule
from latentlab.lit.gradient import GradientModule
from latentlab.lit.profiler import PartsProfiler, table
from latentlab.processes import devices, phases, threads
from latentlab.run.checkpoints import load_state, read_checkpoint
from latentlab.run.config import read_config, write_config
from latentlab.run.directory import RunDirectory
from latentlab.run.environment import add_session
from latentlab.run.files import write_text
from latentlab.run.metrics import MetricsFile, read_rows
from latentlab.run.resuming import check_resumed, check_unfinished
from latentlab.tracking.record import finish, start

log = logging.getLogger(__name__)


@contextmanager
def owned(directory: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Lock the run directory. A run that ends early in the block gets a note with the command that resumes it.

    Raises:
        UserError: if another process holds the directory, it holds another run, or the checkpoint of another run is
            to be resumed.
    """
    run = RunDirectory(directory)
    alone = os.environ.get(devices.PARENT) is None and devices.rank(config["trainer"]) == 0
    with run.lock() if alone else nullcontext(), resumable(run, config) if alone else nullcontext():
        if alone:
            _check_place(run, config)
        yield


@contextmanager
def resumable(run: RunDirectory, config: Mapping[str, Any]) -> Iterator[None]:
    """Add the command that resumes the run to an exception, if the run has begun and has a checkpoint."""
    before = _version(run.config)
    try:
        yield
    except Diverged:  # it would diverge again
        raise
    except BaseException as error:
        if _version(run.config) != before and run.resumable_checkpoint():
            error.add_note(f"resume: {resume.command(run, config)}")
        raise


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Round numbers below the least normal one (1e-38 in float32) to zero in a command.

    Adam's mean of a gradient that has become zero decays to such numbers, which a processor handles slowly: after 700
    steps on MNIST, Adam's step took 2.7 times as long. The weights are the same. Threads take the setting from the
    thread that starts them, so that it must precede the first operation on several threads.

    A call from Python keeps the setting of its process, because a thread that has taken it cannot be reset.
    """
    before = flushes_denormals()
    torch.set_flush_denormal(before or CALLED.get() is None)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes_denormals() -> bool:
    """Return True if this thread rounds numbers below the least normal one to zero."""
    return (torch.tensor(torch.finfo(torch.float32).tiny) / 2).item() == 0


def seed(config: Mapping[str, Any]) -> None:
    """Set up this process for its rank: its output, its signals, its random draws."""
    rank = devices.rank(config["trainer"])
    # Lightning reads the rank from SLURM's variables, also when each SLURM task is a separate run.
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if rank > 0:
        devices.hush()
    quieten_lightning()
    # Lightning turns KeyboardInterrupt into the exit status 1.
    handle(signal.SIGINT)
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    Distribution.set_default_validate_args(config["validate_args"])


def restore(module: LitModule, path: str | None) -> tuple[int, int | None]:
    """Load the weights of a checkpoint, if there is one. Return the steps and the rows of metrics.csv behind it.

    Raises:
        UserError: if it cannot be read or is another model's.
    """
    if path is None:
        return 0, None
    state = read_checkpoint(path)
    load_state(module, state, path)
    return state["global_step"], state.get(PLACE, {}).get("rows")


def check_parts(trainer: pl.Trainer, module: LitModule, data: DataModule, config: Mapping[str, Any]) -> None:
    """Read the data, and check everything that Lightning would refuse after the first write of the run.

    The other ranks wait in Lightning until the first rank has downloaded the data.

    Args:
        trainer: the trainer.
        module: the module.
        data: the data.
        config: the config of the run, to which the checksum of images in files is added.

    Raises:
        UserError: if data are missing or damaged, or parts do not fit together.
    """
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return
    # Lightning attaches the parts in the same way when training starts.
    trainer.datamodule, data.trainer, module.trainer = data, trainer, trainer  # type: ignore[attr-defined]
    data.prepare_data()
    data.setup("fit")
    phases.reached("data")
    if isinstance(data, FileData):  # a resume or an evaluation checks that the data are the same
        if data.sha256 is None:  # a resumed run keeps its name if its images have moved
            data.sha256 = data.digest
            config["names"]["data"] = data.full_name
        config["data"]["sha256"] = data.sha256
    module.setup("fit")
    module.check_training(new=config["ckpt_path"] is None)
    rehearse(trainer, module, config)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Figures | GradientVariance):
            callback.setup(trainer, module, "fit")
        elif isinstance(callback, GradientSkip):
            callback.on_train_start(trainer, module)
        elif type(callback).__module__.startswith("pytorch_lightning."):
            _check_setup(callback, trainer, module)


def _check_setup(callback: pl.Callback, trainer: pl.Trainer, module: LitModule) -> None:
    # A callback of Lightning may need a package that is missing. Those of users may write files here.
    trainer.loggers = [DummyLogger()]  # the loggers start after `begin`
    try:
        callback.setup(trainer, module, "fit")
    except (ImportError, ValueError, MisconfigurationException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"callbacks: {type(callback).__name__} cannot start ({reason}): leave it out"
        ) from error
    finally:
        trainer.loggers = []


def use_threads(trainer: pl.Trainer, module: LitModule, data: DataModule) -> None:
    """Choose the number of threads by the work of a training step."""
    if trainer.strategy.root_device.type != "cpu":
        return
    work = None
    if isinstance(module, GradientModule) and isinstance(data, ImageData):
        examples = data.total_batch_size // trainer.world_size * module.objective.draws
        work = threads.multiply_adds(module.model.parameters(), examples, prod(data.shape[1:]))
    threads.use(threads.choose(work, trainer.world_size))


def begin(
    directory: Path, cfg: DictConfig, job: Any, config: Mapping[str, Any], done: tuple[int, int | None]
) -> None:
    """Write the first files of a run, on the first rank: config.yaml, environment.json, .hydra and the log.

    A resumed run keeps its .hydra, the record of its first command. The rows of metrics.csv that it writes again are
    removed.

    Args:
        directory: the run directory.
        cfg: the composed config.
        job: Hydra's own config of the job.
        config: the config without interpolations.
        done: the steps and the rows of metrics.csv that a resumed run keeps.
    """
    run = RunDirectory(directory)
    if devices.rank(config["trainer"]) > 0:
        return
    write_config(run.config, config)
    resumed = config["ckpt_path"] is not None
    add_session(run.environment, f"{typed('train')} {shlex.join(words())}", config, resumed)
    run.summary.unlink(missing_ok=True)  # a summary means that the run has finished
    if not resumed:
        parts = {"config": cfg, "hydra": OmegaConf.create({"hydra": job}), "overrides": job.overrides.task}
        for name, part in parts.items():
            write_text(run.hydra / f"{name}.yaml", OmegaConf.to_yaml(part))
    MetricsFile(run.metrics).rewind(*done)
    log_to(run.log)
    log.info("threads: %d, cores: %d", torch.get_num_threads(), threads.usable_cores())


def log_to(path: Path) -> None:
    """Write dated lines of all logging to a file as well."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)


def plugins(trainer: Mapping[str, Any]) -> list[ClusterEnvironment | CheckpointIO]:
    """Return the plugins of the trainer."""
    # Lightning would take SLURM tasks for the ranks of one run, although each task is a separate run.
    alone = [] if devices.has_peers(trainer) else [LightningEnvironment()]
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
            "callbacks.early_stopping watches a validation score, but there is no validation: set data.val_size"
        )


def best_checkpoint(directory: Path) -> Path:
    """Return the checkpoint of a trained run that is tested.

    Raises:
        UserError: if there is none.
    """
    path = RunDirectory(directory).best_checkpoint
    if not path.exists():
        raise UserError(
            "there is nothing to evaluate, because no validation gave a finite score: train longer "
            "(trainer.max_epochs, max_steps or max_time)"
        )
    return path


def check_precision(trainer: Mapping[str, Any]) -> None:
    """Refuse a precision that the processor lacks, and warn of a slow one.

    Args:
        trainer: the trainer's config.

    Raises:
        UserError: for float16 on a CPU.
    """
    precision, accelerator = trainer.get("precision"), trainer.get("accelerator")
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if accelerator not in ("cpu", "auto") or (accelerator == "auto" and gpu):
        return
    if precision == "16-mixed":
        raise UserError(
            "trainer.precision=16-mixed: a CPU does not compute in float16: use trainer.precision=32-true"
        )
    if precision == "bf16-mixed" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        log.warning(
            "trainer.precision=bf16-mixed: this CPU has no instructions for bfloat16, so that a step may take 60 times "
            "as long: trainer.precision=32-true is faster"
        )


@contextmanager
def profiled(trainer: pl.Trainer, directory: Path) -> Iterator[None]:
    """Collect the reports of the trainer's profiler, one of the fit and one of the test, in profile.txt.

    The traces of `profiler=pytorch` are kept in the folder profile/. `debug=profile` prints its table as well.
    """
    profiler: Any = trainer.profiler  # type: ignore[attr-defined]
    if isinstance(profiler, PassThroughProfiler) or not trainer.is_global_zero:
        yield
        return
    run = RunDirectory(directory)
    if isinstance(profiler, PartsProfiler):
        yield
        phases.reached("loggers")
        _show_profile(profiler, run)
        return
    profiler.dirpath, profiler.filename = run.traces, "report"
    try:
        yield
    finally:
        parts = sorted(run.traces.glob("*.txt"))
        if parts:
            write_text(run.profile, "\n".join(part.read_text() for part in parts))
        for part in parts:
            part.unlink()
        if run.traces.is_dir() and not any(run.traces.iterdir()):
            run.traces.rmdir()


def _show_profile(profiler: PartsProfiler, run: RunDirectory) -> None:
    rows = table(phases.durations(), {"training": profiler.parts("fit"), "test": profiler.parts("test")})
    file = Console(file=StringIO(), width=100)
    for console in (file, terminal()):
        show_table(console, ["part", "seconds", "share", "calls", "µs a call"], rows)
    write_text(run.profile, file.file.getvalue())  # type: ignore[attr-defined]


@contextmanager
def tracked(trainer: pl.Trainer, loggers: list[Logger], config: Mapping[str, Any]) -> Iterator[None]:
    """Start the loggers of the trainer, and close them with the run's exit status."""
    trainer.loggers = loggers
    for each in loggers:
        start(each)
        each.log_hyperparams(dict(config))
    try:
        yield
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
    # The login node of a SLURM cluster has srun, and an experiment that needs no srun.
    warnings.filterwarnings("ignore", message=r"The `srun` command is available")
    # The values logged at the end of an epoch are the same on all ranks already.
    warnings.filterwarnings("ignore", message=r"It is recommended to use .*sync_dist=True")


def _check_place(run: RunDirectory, config: Mapping[str, Any]) -> None:
    path = config["ckpt_path"]
    if run.last_checkpoint.exists() and (path is None or _other(run, path)):
        raise UserError(
            f"{run.path} already holds a run: resume it with `{resume.command(run, config)}`, "
            "or choose another hydra.run.dir"
        )
    if path is not None:
        read_rows(run.metrics)  # refused before anything is written
        state, known = read_checkpoint(path), read_config(RunDirectory.of_checkpoint(path).config)
        check_resumed(config, known, path)
        if (
            config["data"].get("sha256", "") is None
        ):  # the images of the run, which are checked when they are read
            config["data"]["sha256"] = known["data"].get("sha256")
        check_unfinished(run, config, known, state)


def _other(run: RunDirectory, checkpoint: str) -> bool:
    return RunDirectory.of_checkpoint(checkpoint).path.resolve() != run.path.resolve()


def _version(path: Path) -> tuple[int, int] | None:
    # A file that is replaced changes its number.
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
