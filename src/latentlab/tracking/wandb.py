"""Weights & Biases: one run per run directory, offline when there is no key.

`wandb` is imported inside the functions: importing it takes a second, which other loggers need not pay.
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
    """Lightning's logger around a run that is open already.

    Args:
        run: the open run; None on the ranks that do not log.
        save_dir: the run directory.
        project: the project's name.
        keep_best: whether the best checkpoint becomes an artifact.
    """

    def __init__(self, run: "Run | None", save_dir: str, project: str, keep_best: bool) -> None:
        super().__init__(experiment=run, save_dir=save_dir, project=project)
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
    """Open a W&B run in `save_dir`/wandb, or go on with the one whose id `save_dir`/wandb_run_id.txt holds.

    What is left empty is W&B's own choice: its environment variables (WANDB_ENTITY, WANDB_TAGS, ...), or a default.

    Args:
        save_dir: the run directory.
        project: the project's name.
        entity: the user or team; None for the key's default.
        name: the run's name; None for one that W&B makes up.
        group: the group, such as a sweep.
        tags: the run's tags.
        notes: a remark on the run.
        job_type: the kind of job.
        offline: False to insist on logging online, True to stay offline; None respects WANDB_MODE, and goes
            online where a key is found.
        log_model: "best" to keep the best checkpoint as an artifact with the alias `best`.

    Raises:
        UserError: when `offline` is False without a key, what was logged offline before was not sent, or W&B
            refuses the run.
    """
    mode = choose_mode(offline)
    if mode == "online":
        _check_sent(save_dir)
    asked = dict(project=project, entity=entity, name=name, group=group, notes=notes, job_type=job_type)
    run = None
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        given = {key: value for key, value in {**asked, "tags": list(tags)}.items() if value}
        run = _open_run(save_dir, mode, given)
        _say_where(run, mode, save_dir)
    return WandbRun(run, save_dir, project, keep_best=log_model == "best")


def check_joinable(directory: Path, settings: Mapping[str, Any]) -> None:
    """Check that the run of a directory was logged by W&B.

    Args:
        directory: the run directory.
        settings: the group `logger` of its config.

    Raises:
        UserError: when it was not.
    """
    if not _id_file(directory).exists() or settings.get("_target_") != TARGET:
        raise UserError(
            f"wandb=true: the run in {directory} was not logged with logger=wandb, so that there is none to add "
            "the results to: leave wandb=true out (evaluation.json is written in any case)"
        )


def add_results(directory: Path, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Add numbers to the summary of the run of a directory: online, or offline for `wandb sync` to send later.

    Args:
        directory: the run directory.
        settings: the group `logger` of its config.
        results: numbers by name, among words that are left out.

    Raises:
        UserError: when there is no such run, or W&B refuses it.
    """
    check_joinable(directory, settings)
    arguments = {key: value for key, value in settings.items() if not key.startswith("_")}
    logger = wandb_logger(str(directory), **arguments)
    record_summary(logger, {name: value for name, value in results.items() if isinstance(value, int | float)})
    close(logger, 0)


def _open_run(save_dir: str, mode: Mode, given: Mapping[str, Any]) -> "Run":
    import wandb

    # A service writes the record, perhaps with another working directory.
    absolute = str(Path(save_dir).absolute())
    # Tables and artifacts wait here for `wandb sync`; W&B's own choice is the user's home.
    os.environ.setdefault(DATA_DIR, _folder(save_dir))
    keep = _id_file(save_dir)
    run_id = keep.read_text().strip() if keep.exists() else None
    # Offline too: the record says so, and `wandb sync` appends it to what was sent before instead of replacing that.
    resume: Literal["allow"] | None = "allow" if run_id else None
    # The training script prints what there is to say, and writes its own log. The commit is that of this code,
    # wherever the command was given.
    settings = wandb.Settings(
        console="off", silent=True, init_timeout=60, git_root=str(Path(__file__).resolve().parent)
    )
    try:
        run = wandb.init(dir=absolute, mode=mode, id=run_id, resume=resume, settings=settings, **given)
    except wandb.errors.Error as error:
        raise UserError(f"logger=wandb: {error} (logger.offline=true logs without the server)") from error
    keep.write_text(f"{run.id}\n")
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    if mode == "offline":
        _restore_summary(run, save_dir)
    return run


def _check_sent(save_dir: str) -> None:
    # Sent afterwards, it would take the place of what is logged now.
    folder = Path(_folder(save_dir))
    waiting = [
        record
        for record in folder.glob("offline-run-*/*.wandb")
        if not record.with_name(f"{record.name}.synced").exists()
    ]
    if waiting:
        raise UserError(
            f"logger=wandb: {folder} holds what was logged offline: send it first with `wandb sync {folder}`, "
            "or go on offline with logger.offline=true"
        )


def _restore_summary(run: "Run", save_dir: str) -> None:
    # Online, a resumed run begins with its summary; `wandb sync` replaces the summary by that of the latest record.
    kept = _summary_file(save_dir)
    if kept.exists():
        run.summary.update(json.loads(kept.read_text()))


def _summary_file(save_dir: str) -> Path:
    return Path(_folder(save_dir)) / "summary.json"


def _id_file(directory: str | Path) -> Path:
    return Path(directory) / "wandb_run_id.txt"


def _folder(save_dir: str) -> str:
    return str(Path(save_dir).absolute() / "wandb")


def _say_where(run: "Run", mode: Mode, save_dir: str) -> None:
    why = "" if has_key() else "no API key found, "
    folder = _folder(save_dir)
    lines = {
        "online": f"W&B: logging to {run.url if mode == 'online' else ''}",  # W&B warns when asked offline
        # The folder, for a resumed run has several records, which belong together.
        "offline": f"W&B: {why}logging offline to {folder}; `wandb sync {folder}` sends it later",
        "disabled": "W&B: disabled by WANDB_MODE",
    }
    log.info(lines[mode])


@record_figure.register
@rank_zero_only
def _(logger: WandbRun, key: str, path: Path, step: int, epoch: int, caption: str) -> None:
    import wandb

    # Epoch and step in the same row: the slider of a media panel can follow either.
    picture = wandb.Image(str(path), caption=caption)
    logger.experiment.log({key: [picture], "epoch": epoch, STEP: step})


@record_table.register
def _(logger: WandbRun, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    logger.log_table(key, columns=list(columns), data=[list(row) for row in rows], step=step)


@record_best.register
@rank_zero_only
def _(logger: WandbRun, monitor: str, value: float) -> None:
    # A scalar of its own: define_metric(summary="max") would turn the metric's summary into a mapping.
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
        # Laid out as in the run directory, so that evaluate.py can score what is downloaded.
        run_directory = path.parent.parent
        for file in (path, run_directory / "config.yaml"):
            if file.exists():
                artifact.add_file(str(file), name=str(file.relative_to(run_directory)))
        logger.experiment.log_artifact(artifact, aliases=["best"])


@close.register
@rank_zero_only
def _(logger: WandbRun, exit_code: int) -> None:
    run = logger.experiment
    if run.settings.mode != "disabled":
        results = {key: value for key, value in run.summary._as_dict().items() if not key.startswith("_")}
        _summary_file(str(logger.save_dir)).write_text(json.dumps(results))
    run.finish(exit_code=exit_code)
    # The next run of this process has a folder of its own.
    if os.environ.get(DATA_DIR) == _folder(logger.save_dir or ""):
        del os.environ[DATA_DIR]
