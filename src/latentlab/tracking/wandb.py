"""Weights & Biases: one W&B run for each run directory, offline if there is no key.

The functions import `wandb` themselves, because the import takes a second that other loggers need not spend.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.tracking.record import (
    Rows,
    close,
    record_best,
    record_checkpoint,
    record_figure,
    record_summary,
    record_table,
)
from latentlab.tracking.wandb_key import Mode, Offline, choose_mode, has_key

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
DATA_DIR = "WANDB_DATA_DIR"
TARGET = "latentlab.tracking.wandb.wandb_logger"


class WandbRun(WandbLogger):
    """Lightning's logger for an open W&B run.

    Args:
        run: the open run, or None on ranks that do not log.
        save_dir: the run directory.
        project: the name of the project.
        keep_best: True to save the best checkpoint as an artifact.
    """

    def __init__(self, run: "Run | None", save_dir: str, project: str, keep_best: bool) -> None:
        super().__init__(experiment=run, save_dir=save_dir, project=project)
        self.directory = _directory(save_dir)
        self.keep_best = keep_best


def wandb_logger(
    save_dir: str,
    project: str = "latentlab",
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    job_type: str | None = "train",
    offline: Offline = None,
    log_model: Literal["best", False] = False,
) -> WandbRun:
    """Open a W&B run in the run directory, or resume the one whose id the directory holds.

    W&B fills empty settings from its environment variables (WANDB_ENTITY, WANDB_TAGS, ...) or defaults.

    Args:
        save_dir: the run directory.
        project: the name of the project.
        entity: the user or team, or None for the default of the key.
        name: the name of the run.
        group: the group of the run, such as a sweep.
        tags: the tags of the run.
        notes: a remark on the run.
        job_type: the kind of job.
        offline: True for offline, False for online or an error. None respects WANDB_MODE, and else is online if
            there is a key.
        log_model: "best" to save the best checkpoint as an artifact with the alias `best`.

    Raises:
        UserError: if `offline` is False without a key, earlier offline records were not sent, or W&B refuses the run.
    """
    mode = choose_mode(offline)
    directory = _directory(save_dir)
    if mode == "online":
        _check_sent(directory)
    asked = dict(project=project, entity=entity, name=name, group=group, notes=notes, job_type=job_type)
    run = None
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        given = {key: value for key, value in {**asked, "tags": list(tags)}.items() if value}
        run = _open_run(directory, mode, given)
        _announce(run, mode, directory)
    return WandbRun(run, save_dir, project, keep_best=log_model == "best")


def check_joinable(directory: Path, settings: Mapping[str, Any]) -> None:
    """Check that W&B logged the run of a directory.

    Args:
        directory: the run directory.
        settings: the group `logger` of its config.

    Raises:
        UserError: if it did not.
    """
    if not RunDirectory(directory).wandb_id.exists() or settings.get("_target_") != TARGET:
        raise UserError(
            f"wandb=true: the run in {directory} was not logged with logger=wandb: leave wandb=true out "
            "(evaluation.json is written in any case)"
        )


def add_results(directory: Path, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Add results to the summary of a run's W&B run, offline if there is no key.

    Args:
        directory: the run directory.
        settings: the group `logger` of its config.
        results: results by name, of which only numbers are added.

    Raises:
        UserError: if there is no such run, or W&B refuses it.
    """
    check_joinable(directory, settings)
    arguments = {key: value for key, value in settings.items() if not key.startswith("_")}
    logger = wandb_logger(str(directory), **arguments)
    record_summary(logger, {name: value for name, value in results.items() if isinstance(value, int | float)})
    close(logger, 0)


def _directory(save_dir: str) -> RunDirectory:
    # W&B's service writes the record, perhaps with another working directory.
    return RunDirectory(Path(save_dir).absolute())


def _open_run(directory: RunDirectory, mode: Mode, given: Mapping[str, Any]) -> "Run":
    import wandb

    # W&B's default for tables and artifacts that wait for `wandb sync` is the user's home.
    os.environ.setdefault(DATA_DIR, str(directory.wandb))
    run_id = directory.wandb_id.read_text().strip() if directory.wandb_id.exists() else None
    # The offline record keeps this setting: `wandb sync` then appends to the run instead of replacing it.
    resume: Literal["allow"] | None = "allow" if run_id else None
    # train.py prints messages and writes a log by itself. The commit is that of this code, wherever it is called.
    settings = wandb.Settings(
        console="off", silent=True, init_timeout=60, git_root=str(Path(__file__).resolve().parent)
    )
    try:
        run = wandb.init(
            dir=str(directory.path), mode=mode, id=run_id, resume=resume, settings=settings, **given
        )
    except wandb.errors.Error as error:
        raise UserError(f"logger=wandb: {error} (logger.offline=true logs without the server)") from error
    directory.wandb_id.write_text(f"{run.id}\n")
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    if mode == "offline":
        _restore_summary(run, directory)
    return run


def _check_sent(directory: RunDirectory) -> None:
    # A record that is sent later would replace the metrics that are logged now.
    waiting = [
        record
        for record in directory.wandb.glob("offline-run-*/*.wandb")
        if not record.with_name(f"{record.name}.synced").exists()
    ]
    if waiting:
        raise UserError(
            f"logger=wandb: {directory.wandb} holds offline records: send them first with "
            f"`wandb sync {directory.wandb}`, or stay offline with logger.offline=true"
        )


def _restore_summary(run: "Run", directory: RunDirectory) -> None:
    # `wandb sync` replaces the summary by that of the latest record. Online, W&B restores it by itself.
    kept = directory.wandb_summary
    if kept.exists():
        run.summary.update(json.loads(kept.read_text()))


def _announce(run: "Run", mode: Mode, directory: RunDirectory) -> None:
    why = "" if has_key() else "no API key found, "
    lines = {
        "online": f"W&B: logging to {run.url if mode == 'online' else ''}",  # W&B warns if asked offline
        # The whole folder, because a resumed run has several records.
        "offline": f"W&B: {why}logging offline to {directory.wandb}; `wandb sync {directory.wandb}` sends it later",
        "disabled": "W&B: disabled by WANDB_MODE",
    }
    log.info(lines[mode])


@record_figure.register
@rank_zero_only
def _(logger: WandbRun, key: str, path: Path, step: int, epoch: int, caption: str) -> None:
    import wandb

    # Epoch and step are in the same row, so that the slider of a media panel can follow either.
    picture = wandb.Image(str(path), caption=caption)
    logger.experiment.log({key: [picture], "epoch": epoch, STEP: step})


@record_table.register
def _(logger: WandbRun, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    logger.log_table(key, columns=list(columns), data=[list(row) for row in rows], step=step)


@record_best.register
@rank_zero_only
def _(logger: WandbRun, monitor: str, value: float) -> None:
    # Not define_metric(summary="max"), which would turn the summary of the metric into a mapping.
    logger.experiment.summary[f"best/{monitor.replace('/', '_')}"] = value


@record_summary.register
@rank_zero_only
def _(logger: WandbRun, values: Mapping[str, float]) -> None:
    # Not a row of the history, where the best val/elbo would look like the last epoch's.
    logger.experiment.summary.update(dict(values))


@record_checkpoint.register
@rank_zero_only
def _(logger: WandbRun, path: Path, metadata: dict[str, Any]) -> None:
    import wandb

    if logger.keep_best:
        artifact = wandb.Artifact(f"model-{logger.version}", type="model", metadata=metadata)
        # The artifact is laid out like the run directory, so that evaluate.py can read it.
        run = RunDirectory.of_checkpoint(path)
        for file in filter(Path.exists, (path, run.config)):
            artifact.add_file(str(file), name=str(file.relative_to(run.path)))
        logger.experiment.log_artifact(artifact, aliases=["best"])


@close.register
@rank_zero_only
def _(logger: WandbRun, exit_code: int) -> None:
    run = logger.experiment
    if run.settings.mode != "disabled":
        results = {key: value for key, value in run.summary._as_dict().items() if not key.startswith("_")}
        logger.directory.wandb_summary.write_text(json.dumps(results))
    run.finish(exit_code=exit_code)
    # The next run of this process has another folder.
    if os.environ.get(DATA_DIR) == str(logger.directory.wandb):
        del os.environ[DATA_DIR]
