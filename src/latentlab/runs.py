"""What a run leaves in its directory, and what is read back from there."""

import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Table
from torch.distributions import Distribution
from yaml import YAMLError  # type: ignore[import-untyped]

from latentlab import devices
from latentlab.callbacks import BestCheckpoint, LastCheckpoint, Timing
from latentlab.checkpoints import read_checkpoint
from latentlab.checks import check_config, check_trusted, check_types, check_used
from latentlab.data.loader import blocks
from latentlab.errors import UserError
from latentlab.evaluation import active_units, bits_per_dim, nll
from latentlab.lit import IterativeModule
from latentlab.models.base import GenerativeModel
from latentlab.tracking import finish, log_summary
from latentlab.tracking.csv import CSVMetrics, rewind

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
# What is rebuilt from a run's config, and what names it.
PARTS = ("module", "data", "callbacks", "names", "seed")
# What a resumed run shares with the run that it goes on from, for a checkpoint holds its state; and what may differ.
HELD = ("seed", "names", "data", "model", "objective", "optimizer", "scheduler")
FREE = ("data.root", "data.source.path", "data.eval_batch_size", "data.on_device", "model.tolerance")
NLL_SAMPLES = 100
CONFIG, SUMMARY, EVALUATION = "config.yaml", "summary.json", "evaluation.json"
# What is shown of a summary: scores on the test set, and what a classical inference reports.
SHOWN = ("test/", "train/", "estimate/", "exact/", "error/")


def check(raw: Mapping[str, Any], config: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Check a composed experiment against the code it names, before anything of it is built.

    Args:
        raw: its config with its interpolations.
        config: its config without.
        overrides: the arguments of the command line.

    Raises:
        UserError: for the first setting out of range, unknown or ill-typed argument, or group that changes nothing.
    """
    check_types(config, SETTINGS)
    check_config(raw, config)
    check_used(raw, overrides, config["names"]["model"])


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
        (directory / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        rewind(directory / "metrics.csv", done)


def plugins(trainer: Mapping[str, Any]) -> list[ClusterEnvironment]:
    """What Lightning is to be told of where it runs: nothing, but where tasks of SLURM are runs of their own."""
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    return [LightningEnvironment()] if tasks > 1 and not devices.has_peers(trainer) else []


def check_resumed(config: Mapping[str, Any], ckpt_path: str) -> None:
    """Refuse to resume a run with another model, other data or another optimiser than it had.

    The optimiser's and the scheduler's settings come back with their states: others would pass without effect.

    Raises:
        UserError: for the first setting that differs.
    """
    path = _config_path(ckpt_path)
    asked, known = _held(config), _held(_read_yaml(path))
    for key in [*asked, *(key for key in known if key not in asked)]:
        if asked.get(key) != known.get(key) and key not in FREE:
            inner = key.partition(".")[2]
            # As it is given: prior.x, not model.prior.x.
            name = inner if inner.partition(".")[0] in config else key
            raise UserError(
                f"{name}={_shown(asked.get(key))}: the run of ckpt_path={ckpt_path} has {_shown(known.get(key))}, "
                f"and goes on with that: give its own options again ({path} holds them)"
            )


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


def conclude(trainer: pl.Trainer, directory: Path, names: Mapping[str, Any]) -> dict[str, Any]:
    """Write summary.json of a run that was trained and tested; {} on ranks other than the first."""
    if not trainer.is_global_zero:
        return {}
    best = _callback(trainer, BestCheckpoint)
    timing = _callback(trainer, Timing)
    summary = {
        **_described(trainer, names),
        **_validated(trainer, best),
        "best/epoch": best.best_epoch + 1,
        "time/train_seconds": timing.train_seconds,
        **_rates(trainer, timing),
        **_scale(trainer),
    }
    log_summary(trainer.loggers, summary, trainer.global_step)
    write_json(directory / SUMMARY, summary)
    return summary


def check_estimates(module: pl.LightningModule, nll_samples: int) -> None:
    """Refuse a likelihood estimate of a model that has none, or no test set.

    Raises:
        UserError: with the reason.
    """
    model: Any = module.model
    if nll_samples > 0 and not isinstance(model, GenerativeModel):
        raise UserError(
            f"nll.samples={nll_samples}: {type(model).__name__} is about its own data and has no test set: "
            "leave nll.samples at 0"
        )
    if nll_samples > 0 and not model.bounded:
        raise UserError(
            f"nll.samples={nll_samples}: {type(model).__name__} has no bound on log p(x), nor an estimate of it: "
            "leave nll.samples at 0, or train a model that has one, such as model=vae"
        )
    if nll_samples > 0 and not model.weighted:
        raise UserError(
            f"nll.samples={nll_samples}: the NLL is estimated by importance weights of drawn latents, and "
            f"{type(model).__name__} has none: leave nll.samples at 0 (its bound is test/elbo), or train a model that "
            "has them, such as model=vae"
        )


def choose_nll_samples(module: pl.LightningModule, asked: int | None) -> int:
    """The draws that the NLL is estimated with: as asked, else NLL_SAMPLES for a model that has one and 0 elsewhere.

    Raises:
        UserError: when draws are asked for, and the model has no likelihood to estimate.
    """
    model: Any = module.model
    if asked is None:
        has_one = isinstance(model, GenerativeModel) and model.bounded and model.weighted
        return NLL_SAMPLES if has_one else 0
    check_estimates(module, asked)
    return asked


def estimate(trainer: pl.Trainer, nll_samples: int, chunk: int) -> dict[str, float]:
    """What is reported of a tested model beside its bound: bits per dimension, active units, NLL if asked for."""
    module: Any = trainer.lightning_module
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(module.model, GenerativeModel):
        return {}  # a classical inference about its own data
    model = module.to(trainer.strategy.root_device).eval().model

    def observations() -> Iterator[Any]:
        parts = (block for batch in data.test_dataloader() for block in blocks(batch))
        return (module.observed(module.transfer_batch_to_device(part, module.device, 0)) for part in parts)

    found: dict[str, float] = {}
    if model.learned_inference:
        with torch.inference_mode():
            means = torch.cat([model.posterior_mean(x).cpu() for x in observations()])
        found["active_units"] = active_units(means)
    if nll_samples > 0:
        found |= nll(model, observations(), nll_samples, chunk, data.num_examples["test"])
    offset = _protocol(trainer).bits_offset
    if model.bounded and offset is not None:
        found["bits_per_dim"] = bits_per_dim(module.results["test/elbo"], prod(model.x_shape), offset)
    return {f"test/{name}": value for name, value in found.items()}


def conclude_evaluation(
    trainer: pl.Trainer, directory: Path, names: Mapping[str, Any], estimates: Mapping[str, float]
) -> dict[str, Any]:
    """Write evaluation.json and print it as a table."""
    results = {**_described(trainer, names), **estimates}
    write_json(directory / EVALUATION, results)
    show(results, directory)
    return results


def load_state(module: pl.LightningModule, state: Mapping[str, Any], ckpt_path: str) -> None:
    """Put the weights of a checkpoint into a module.

    Raises:
        UserError: when they are another model's.
    """
    try:
        module.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(
            f"ckpt_path={ckpt_path}: its weights do not fit the model of this config ({reason})"
        ) from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain numbers and words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")


def show(summary: Mapping[str, Any], directory: Path) -> None:
    """Print the test metrics, and those of a classical inference, as a small table; nothing of an empty summary."""
    if not summary:
        return
    unit = ", nats per example" if "test/reconstruction" in summary else ", nats"
    table = Table(title=f"{summary['model']} on {summary['data']} ({summary['protocol']}){unit}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in summary.items():
        if name.startswith(SHOWN) and not name.endswith("_stderr"):
            stderr = summary.get(f"{name}_stderr")
            error = "" if stderr is None else f" +- {stderr:.2f}"
            digits = ".2f" if name.startswith("test/") else ".4g" if abs(value) < 0.1 else ".4f"
            table.add_row(name, f"{value:{digits}}{error}" if isinstance(value, float) else f"{value:,}")
    console = Console(soft_wrap=True)
    console.print(table)
    drawn = (directory / "figures").is_dir()
    console.print(f"figures: {directory / 'figures'}" if drawn else f"run: {directory}", highlight=False)


def read_config(ckpt_path: str) -> dict[str, Any]:
    """The resolved config of the run that a checkpoint belongs to.

    Raises:
        UserError: when there is none, it is damaged, or it names classes from elsewhere.
    """
    path = _config_path(ckpt_path)
    config = _read_yaml(path)
    missing = [part for part in PARTS if part not in config]
    if missing:
        raise UserError(f"{path} is not a whole config of a run: it lacks {', '.join(missing)}")
    for part in PARTS[:3]:
        check_trusted(config[part], part)
    return config


def _config_path(ckpt_path: str) -> Path:
    return Path(ckpt_path).parent.parent / CONFIG


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path} is missing: a checkpoint is read together with the config.yaml of its run")
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
    except YAMLError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return config


def _held(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for part in HELD if part in config for key, value in _leaves(config[part], part)}


def _leaves(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        yield where, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{where}.{key}")


def _shown(value: Any) -> Any:
    return "null" if value is None else value


def quieten_lightning() -> None:
    """Lightning's notices about devices and tips off; its warnings stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.15: a warning about its own use of torch.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    # What is logged at the end of an epoch is the same on all ranks already.
    warnings.filterwarnings("ignore", message=r"It is recommended to use .*sync_dist=True")


def _described(trainer: pl.Trainer, names: Mapping[str, Any]) -> dict[str, Any]:
    module: Any = trainer.lightning_module
    return {
        **names,
        "protocol": _protocol(trainer).name,
        "model/parameters": sum(parameter.numel() for parameter in module.parameters()),
        **{name: value for name, value in module.results.items() if name.startswith((*SHOWN, "model/"))},
    }


def _protocol(trainer: pl.Trainer) -> Any:
    """What the numbers are to be read under; a classical inference about its own data names its source."""
    model: Any = trainer.lightning_module.model
    protocol = trainer.datamodule.protocol  # type: ignore[attr-defined]
    return model.scored_as(protocol) if isinstance(model, GenerativeModel) else protocol


def _validated(trainer: pl.Trainer, best: BestCheckpoint) -> dict[str, float]:
    module: Any = trainer.lightning_module
    if isinstance(module, IterativeModule):  # best.ckpt is chosen by the training set
        return {name: value for name, value in module.results.items() if name == "val/elbo"}
    return {} if best.best_score is None else {best.monitor: best.best_score}


def _rates(trainer: pl.Trainer, timing: Timing) -> dict[str, float]:
    if isinstance(
        trainer.lightning_module, IterativeModule
    ):  # an iteration sees all examples, whatever the batch
        return {"time/iterations_per_second": trainer.global_step / max(timing.train_seconds, 1e-9)}
    return {"time/examples_per_second": timing.examples_per_second}


def _scale(trainer: pl.Trainer) -> dict[str, int]:
    if isinstance(trainer.lightning_module, IterativeModule):
        return {}
    batch = trainer.datamodule.total_batch_size * trainer.accumulate_grad_batches  # type: ignore[attr-defined]
    return {"trainer/devices": trainer.world_size, "trainer/examples_per_step": batch}


def _callback(trainer: pl.Trainer, kind: type) -> Any:
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]
