"""The checked experiment of a command, and the builder of its parts."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.loggers import Logger

from latentlab.cli import expost, resume
from latentlab.cli.build import build, build_saved, check_places, trusted
from latentlab.cli.checks import check_config, check_types, check_underflow
from latentlab.cli.memory import within_checkpoint
from latentlab.cli.paths import settle
from latentlab.cli.ranges import SETTINGS
from latentlab.cli.used import check_used
from latentlab.data.images import ImageData
from latentlab.data.module import DataModule
from latentlab.lit.base import LitModule
from latentlab.run.checkpoints import BUILT, checkpoints, config_of, read_first
from latentlab.run.legacy import name_loggers
from latentlab.run.resuming import choose_checkpoint
from latentlab.run.trust import Trusted, locate
from latentlab.tracking.csv_logger import CSVMetrics

# The argument of a model that takes the shape of the data.
SHAPE = "x_shape"
CLASSES: tuple[type, ...] = (LitModule, DataModule, pl.Callback, pl.Trainer, Logger)
KINDS = dict(zip(resume.PARTS, CLASSES, strict=True))


@dataclass(frozen=True)
class Experiment:
    """The checked config of a run, and the builder of its parts.

    Attributes:
        config: plain values, without interpolations.
        trusted: the targets that the config of another run may name, None for a config of this command line.
        source: the checkpoint of that run.
    """

    config: dict[str, Any]
    trusted: Trusted | None = None
    source: str = ""

    def build(self, key: str, **arguments: Any) -> Any:
        """Build the part at a dotted key, with further arguments."""
        node = reduce(getitem, key.split("."), self.config)
        if self.trusted is None:
            return build(node, **arguments)
        with within_checkpoint(key, self.source):
            return build_saved(node, key, self.trusted, KINDS[key.partition(".")[0]], **arguments)

    def parts(self) -> tuple[DataModule, LitModule]:
        """Build the data and the module, and check that they fit.

        A model gets the shape of the images as its `x_shape`, unless the config gives one. The config of a resumed run
        stays as it is.

        Raises:
            UserError: if they do not fit.
        """
        data = self.build("data")
        if self.trusted is None and isinstance(data, ImageData):
            for holder in (self.config, self.config["module"]):
                _give_shape(holder.get("model"), data.shape)
        module = self.build("module")
        module.check(data)
        return data, module

    def callbacks(self) -> list[pl.Callback]:
        """Build every callback. An entry without a `_target_` changes another entry, which is left out here."""
        nodes = self.config["callbacks"]
        built = [
            self.build(f"callbacks.{name}") for name, node in nodes.items() if node and "_target_" in node
        ]
        if self.config["trainer"].get("enable_progress_bar") is False:
            return [callback for callback in built if not isinstance(callback, ProgressBar)]
        return built

    def loggers(self, directory: Path) -> list[Logger]:
        """Build the loggers of the run, metrics.csv first. They write nothing before they are started.

        A dry run has metrics.csv alone.
        """
        dry = bool(self.config["trainer"].get("fast_dev_run"))
        chosen = [name for name, node in self.config["logger"].items() if node and not dry]
        others = [self.build(f"logger.{name}", save_dir=directory) for name in chosen]
        return [CSVMetrics(str(directory)), *others]


def compose(cfg: DictConfig, job: Any) -> Experiment:
    """Return the checked experiment of a command, or of the run that it resumes.

    Args:
        cfg: the composed config.
        job: Hydra's own config of the job.

    Raises:
        UserError: for the first mistake in it.
    """
    settle(cfg)
    raw: Any = OmegaConf.to_container(cfg)
    if raw["resume"] is not None:
        return resumed(raw, job.overrides.task)
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    del raw["resume"], config["resume"], raw["trust"]
    raw, config = name_loggers(raw), name_loggers(config)
    base = raw.pop("run"), config.pop("run")
    expost.check_given(config, base[1])
    if base[1] is not None:
        return refitted(raw, config, Path(base[1]), job.overrides.task)
    del config["trust"]
    check(raw, config, job.overrides.task)
    return Experiment(config)


def refitted(raw: dict[str, Any], config: dict[str, Any], run: Path, overrides: Sequence[str]) -> Experiment:
    """Return the experiment that gives the trained model of a run another prior.

    Args:
        raw: the config with interpolations. It gets the model and the data of the run.
        config: the config without interpolations. It gets them too.
        run: the run.
        overrides: the arguments of the command line.

    Raises:
        UserError: for a run that cannot be read or trusted, or a model without such latents.
    """
    allowed = trusted(config.pop("trust"))
    path, _ = read_first(checkpoints(run), "run")
    saved = config_of(path, allowed, BUILT)
    for each in (raw, config):
        expost.take(each, saved, path, overrides)
    check(raw, config, overrides)
    return Experiment(config, allowed, str(path))


def resumed(composed: Mapping[str, Any], overrides: Iterable[str]) -> Experiment:
    """Return the experiment of a run that is resumed with `resume=RUN`.

    Args:
        composed: the config that Hydra composed of the overrides, with interpolations.
        overrides: the overrides.

    Raises:
        UserError: for a run that cannot be resumed, or the first override that it cannot have.
    """
    check_types(composed, {"trust": str | Sequence[str]})
    allowed, path = trusted(composed["trust"]), choose_checkpoint(Path(composed["resume"]))
    config = resume.merge(config_of(path, allowed, resume.PARTS), composed, overrides)
    check_types(config, SETTINGS)
    for part in resume.PARTS:
        check_config(config[part], config[part], part)
    given = [word.lstrip("+").partition("=")[0].removeprefix("data.") for word in overrides]
    check_places(config["data"], given)
    return Experiment({**config, "ckpt_path": str(path)}, allowed, str(path))


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


def _give_shape(model: Any, shape: Sequence[int]) -> None:
    if model and SHAPE not in model and SHAPE in _arguments(model["_target_"]):
        model[SHAPE] = list(shape)


def _arguments(target: str) -> Iterable[str]:
    return inspect.signature(locate(target, "model")).parameters
