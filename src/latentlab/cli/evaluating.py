"""The evaluation of a run: rebuild its model and data, test the model, estimate the NLL."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from latentlab.callbacks import Figures
from latentlab.classical.base import Source
from latentlab.cli.build import build_saved, check_places, start_ranks, trusted
from latentlab.cli.checks import check_config, check_types
from latentlab.cli.memory import check_evaluation, within_checkpoint
from latentlab.cli.paths import settle
from latentlab.cli.training import quieten_lightning
from latentlab.compare.runs import find_runs
from latentlab.data.module import DataModule, Split
from latentlab.errors import UserError
from latentlab.evaluation import Ranks, choose_nll_samples, choose_samples, estimate, nll
from latentlab.lit.base import LitModule, ScoringModule
from latentlab.models.base import GenerativeModel
from latentlab.models.samplers import DDIM
from latentlab.models.vdm import DiffusionModel
from latentlab.processes import devices
from latentlab.run.checkpoints import BUILT, checkpoints, config_of, load_state, read_first
from latentlab.run.directory import RunDirectory
from latentlab.run.trust import Trusted
from latentlab.tracking.artifacts import is_artifact

SETTINGS = {
    "run": str | Sequence[str] | None,
    "ckpt_path": str | None,
    "batch_size": PositiveInt,
    "split": Literal["train", "val", "test"],
    "samples": PositiveInt | None,
    "nll.samples": NonNegativeInt | None,
    "nll.chunk": PositiveInt,
    "nll.method": Literal["importance", "ais"],
    "nll.examples": PositiveInt | None,
    "nll.chains": PositiveInt,
    "nll.steps": PositiveInt,
    "nll.leapfrog": PositiveInt,
    "nll.start": Literal["prior", "posterior"],
    "nll.ladder": Literal["sigmoid", "linear"],
    "nll.compare": NonNegativeInt | None,
    "nll.bdmc": NonNegativeInt,
    "mutual_information.examples": NonNegativeInt,
    "sampling.steps": PositiveInt | None,
    "sampling.eta": Annotated[float, Field(ge=0, le=1)] | None,
    "sampling.guidance": NonNegativeFloat | None,
    "fid.samples": NonNegativeInt,
    "fid.reference": Literal["train", "test"],
    "fid.means": bool,
    "fid.classifier": str | None,
    "speed.samples": NonNegativeInt,
    "speed.batch_size": PositiveInt,
    "geometry.pairs": NonNegativeInt,
    "geometry.points": Annotated[int, Field(ge=3, le=1000)],
    "gaps.examples": NonNegativeInt,
    "gaps.steps": PositiveInt,
    "gaps.samples": Annotated[int, Field(ge=1, le=1000)],
    "gaps.learning_rate": Annotated[float, Field(gt=0, le=1)],
    "gaps.nll_samples": PositiveInt,
    "figures.draw": bool,
    "figures.more": str | Sequence[str],
    "wandb": bool,
    "accelerator": Literal["auto", "cpu", "gpu"],
    "devices": PositiveInt,
    "trust": str | Sequence[str],
    "export": str | Sequence[str],
    "export_n": PositiveInt,
    "export_seed": NonNegativeInt,
}


@dataclass(frozen=True)
class Saved:
    """A checkpoint with the config of its run.

    Attributes:
        checkpoint: the path of its checkpoint.
        state: the state in the checkpoint.
        config: the config of the run.
        trusted: the targets that the config may name.
    """

    checkpoint: Path
    state: Mapping[str, Any]
    config: Mapping[str, Any]
    trusted: Trusted


def runs(cfg: Any) -> list[str]:
    """Return the runs that `run` names: run directories, and those below the folder of a sweep.

    A run that is named twice counts once.

    Raises:
        UserError: for a setting of another type, no run in a list, or several runs with a setting that fits one.
    """
    check_types(cfg, {"run": SETTINGS["run"]})
    given = [cfg.run] if isinstance(cfg.run, str) else cfg.run or []
    if cfg.run is not None and not all(given or [""]):
        raise UserError(
            f"run={cfg.run}: name a run directory, several as in run=[RUN,RUN], or a folder of runs"
        )
    distinct: dict[str | Path, str] = {}
    for run in (run for name in given for run in _at_or_below(name)):
        distinct.setdefault(_place(run), run)
    found = list(distinct.values())
    single = [key for key in ("ckpt_path", "output_dir") if cfg[key] is not None]
    if len(found) > 1 and single:
        raise UserError(f"{single[0]}={cfg[single[0]]}: run= gives {len(found)} runs: leave {single[0]} out")
    return found


def start_processes(cfg: Any, job: Any, number: int) -> bool:
    """Evaluate in one process for each device if there are several, and return True if that was done.

    Args:
        cfg: the composed config.
        job: Hydra's own config of the job.
        number: the number of runs.

    Raises:
        UserError: if devices are missing, a process failed, or there are several runs.
    """
    check_types(cfg, {"devices": SETTINGS["devices"]})
    if cfg.devices == 1:
        return False
    if number > 1:
        raise UserError(f"devices={cfg.devices}: run= gives {number} runs: evaluate them with devices=1")
    rank = devices.rank(cfg)
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if rank > 0:
        devices.hush()
    try:
        return start_ranks(job, cfg)
    except UserError as error:
        raise UserError(str(error).replace("trainer.devices", "devices")) from error


def _place(run: str) -> str | Path:
    return run if is_artifact(run) else Path(run).expanduser().resolve()


def _at_or_below(name: str) -> list[str]:
    run = RunDirectory(Path(name).expanduser())
    if is_artifact(name) or run.config.exists() or run.checkpoints.exists() or not run.path.is_dir():
        return [name]
    with suppress(UserError):  # an empty folder is refused as a run
        return [str(path) for path in find_runs(run.path)]
    return [name]


def read(cfg: Any) -> Saved:
    """Check the settings of evaluate.py, and return the run.

    `run=RUN` means RUN/checkpoints/best.ckpt, or last.ckpt with a warning if that is missing or damaged.

    Raises:
        UserError: for a setting out of range, or a checkpoint or config that cannot be read or is not trusted.
    """
    settle(cfg)
    check_types(cfg, SETTINGS)
    if (cfg.run is None) == (cfg.ckpt_path is None):
        raise UserError("give one of run=RUN, a run directory, and ckpt_path=RUN/checkpoints/best.ckpt")
    paths = [Path(cfg.ckpt_path)] if cfg.run is None else checkpoints(Path(cfg.run))
    parts = (*BUILT, "logger") if cfg.wandb else BUILT
    return read_saved(paths, "ckpt_path" if cfg.run is None else "run", trusted(cfg.trust), parts)


def read_saved(paths: Sequence[Path], key: str, allowed: Trusted, parts: Sequence[str] = BUILT) -> Saved:
    """Return the first of some checkpoints that can be read, with the config of its run.

    Args:
        paths: the checkpoints.
        key: the key under which the user gave them.
        allowed: the targets that the config may name.
        parts: the groups of the config that will be built.

    Raises:
        UserError: for a checkpoint or config that cannot be read or is not trusted.
    """
    path, state = read_first(paths, key)
    config = config_of(path, allowed, parts)
    for part in parts:
        check_config(config[part], config[part], part)
    return Saved(path, state, config, allowed)


def rebuild(cfg: Any, run: Saved) -> tuple[LitModule, DataModule]:
    """Build the trained model and the data of a run.

    Raises:
        UserError: if the weights do not fit, or `nll.samples` is asked of a model without an NLL.
    """
    quieten_lightning()
    data = rebuild_data(run, cfg.data, eval_batch_size=cfg.batch_size)
    choose_split(data, cfg.split)
    module = rebuild_module(run)
    module.check(data)
    module.eval_samples = choose_samples(module.model, cfg.samples)
    nll_samples = choose_nll_samples(module.model, cfg.nll.samples)
    load_state(module, run.state, str(run.checkpoint))
    change_sampling(cfg.sampling, module.model)
    if isinstance(module.model, GenerativeModel):
        draws = {"samples": module.eval_samples, "nll.chunk": min(cfg.nll.chunk, nll_samples)}
        check_evaluation(module.model, data, draws, run.config["module"])
    return module, data


def choose_split(data: DataModule, split: Split) -> None:
    """Choose the split that is scored.

    Raises:
        UserError: if the data have no such split.
    """
    if split == data.tested:
        return
    if isinstance(data.protocol, Source):
        raise UserError(f"split={split}: {data.name} are observations without splits: leave it out")
    data.prepare_data()
    data.setup("test")
    data.whole_set(split)
    data.tested = split


def change_sampling(cfg: Any, model: Any) -> None:
    """Change the number of steps, the sampler and the guidance of a trained diffusion, where they are not null.

    Raises:
        UserError: for another model, or for guidance without classes.
    """
    given = {name: value for name, value in cfg.items() if value is not None}
    if given and not isinstance(model, DiffusionModel):
        name, value = next(iter(given.items()))
        raise UserError(
            f"sampling.{name}={value}: {type(model).__name__} has no diffusion to sample from: leave it out"
        )
    if "steps" in given:
        model.sample_steps = given["steps"]
    if "eta" in given:
        model.sampler = DDIM(given["eta"])
    if "guidance" in given:
        model.guide(given["guidance"])


def rebuild_data(run: Saved, places: Mapping[str, str | None], **changed: Any) -> DataModule:
    """Build the data of a run.

    Args:
        run: the run.
        places: the `root` of all data sets and the `path` of one's own images, None for those of the run.
        changed: other settings that replace those of the run.

    Raises:
        UserError: if they cannot be built from this config.
    """
    node = run.config["data"]
    moved = {key: place for key, place in places.items() if place and key in node}
    check_places(node, moved)
    with within_checkpoint("data", run.checkpoint):
        data: DataModule = build_saved(node, "data", run.trusted, DataModule, **moved, **changed)
    return data


def rebuild_module(run: Saved, **moved: Any) -> LitModule:
    """Build the module of a run, without its weights.

    Raises:
        UserError: if it cannot be built from this config.
    """
    with within_checkpoint("module", run.checkpoint):
        module: LitModule = build_saved(run.config["module"], "module", run.trusted, LitModule, **moved)
    return module


def trainer(cfg: Any, run: Saved, directory: Any) -> pl.Trainer:
    """Return a trainer that draws the run's figures into `directory`, if they are asked for."""
    figures = (
        _figures(run.config["callbacks"], run.trusted) if cfg.figures.draw and cfg.split == "test" else []
    )
    if cfg.figures.more:
        names = [cfg.figures.more] if isinstance(cfg.figures.more, str) else list(cfg.figures.more)
        figures.append(Figures(None, more=names))
    return pl.Trainer(
        accelerator=cfg.accelerator,
        devices=cfg.devices,
        strategy="auto" if cfg.devices == 1 else "ddp",
        logger=False,
        callbacks=figures,
        default_root_dir=directory,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _figures(callbacks: Mapping[str, Any], allowed: Trusted) -> list[pl.Callback]:
    # No other callback is built: the evaluation has no use for them.
    found = {f"callbacks.{name}": node for name, node in callbacks.items() if node and node.get("_target_")}
    return [
        build_saved(node, where, allowed, Figures)
        for where, node in found.items()
        if allowed.find(node["_target_"], where) is Figures
    ]


def estimates(cfg: Any, trainer: pl.Trainer, module: LitModule, data: DataModule) -> dict[str, float]:
    """Return the estimates of a tested model, such as `test/nll` and `test/active_units`.

    All ranks compute the NLL, and the first one the other estimates.
    """
    if isinstance(data.protocol, Source):  # a classical inference brings its own data and has no test set
        return {}
    split, size = data.tested, data.num_examples[data.tested]
    model = module.to(trainer.strategy.root_device).eval().model
    means = {name.removeprefix(f"{split}/"): value for name, value in module.results.items()}
    found: dict[str, float] = {}
    if samples := choose_nll_samples(model, cfg.nll.samples):
        assert isinstance(module, ScoringModule)
        ranks = Ranks(trainer.global_rank, trainer.world_size, module.add_ranks)
        found = nll(model, data.test_dataloader(), samples, cfg.nll.chunk, size, ranks)
    if trainer.is_global_zero:
        found |= estimate(
            model,
            data.whole_set(split),
            size,
            data.protocol,
            {**means, **found},
            samples=module.eval_samples,
            mixture_examples=cfg.mutual_information.examples,
        )
    return {f"{split}/{name}": value for name, value in found.items()}
