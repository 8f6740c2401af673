"""Weights & Biases: one W&B run for each run directory, offline if there is no key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    start,
)
from latentlab.tracking.wandb_key import Offline, choose_mode
from latentlab.tracking.wandb_records import is_sent, offline_records
from latentlab.tracking.wandb_run import STEP, WandbRun

if TYPE_CHECKING:
    from wandb import Run

TARGET = "latentlab.tracking.wandb.wandb_logger"


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
    """Return the logger for the W&B run of a run directory, which is opened when the first value is logged.

    A directory that holds the id of a W&B run resumes it. W&B fills empty settings from its environment variables
    (WANDB_ENTITY, WANDB_TAGS, ...) or defaults.

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
            there is a key and the server answers.
        log_model: "best" to save the best checkpoint as an artifact with the alias `best`.

    Raises:
        UserError: if `offline` is False without a key or a server, earlier offline records were not sent, or W&B
            refuses a setting.
    """
    # W&B's service writes the record, perhaps with another working directory.
    directory = RunDirectory(Path(save_dir).absolute())
    asked = dict(project=project, entity=entity, name=name, group=group, notes=notes, job_type=job_type)
    given = {key: value for key, value in {**asked, "tags": list(tags)}.items() if value}
    _check_settings(given)
    mode = choose_mode(offline)
    if mode == "online":
        _check_sent(directory)
    return WandbRun(directory, mode, given, keep_best=log_model == "best", strict=offline is False)


def check_joinable(directory: Path, loggers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the W&B logger of a run.

    Args:
        directory: the run directory.
        loggers: the group `logger` of its config.

    Raises:
        UserError: if W&B did not log it.
    """
    found = [
        node for node in loggers.values() if isinstance(node, Mapping) and node.get("_target_") == TARGET
    ]
    if not RunDirectory(directory).wandb_id.exists() or not found:
        raise UserError(
            f"wandb=true: the run in {directory} was not logged with logger=wandb: leave wandb=true out "
            "(evaluation.json is written in any case)"
        )
    return found[0]


def add_results(directory: Path, loggers: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Add results to the summary of a run's W&B run, offline if there is no key.

    Args:
        directory: the run directory.
        loggers: the group `logger` of its config.
        results: results by name, of which only numbers are added.

    Raises:
        UserError: if there is no such run, or W&B refuses it.
    """
    settings = check_joinable(directory, loggers)
    arguments = {
        key: value for key, value in settings.items() if not key.startswith("_") and key != "save_dir"
    }
    logger = wandb_logger(str(directory), **arguments)
    record_summary(logger, {name: value for name, value in results.items() if isinstance(value, int | float)})
    close(logger, 0)


def _check_settings(given: Mapping[str, Any]) -> None:
    import wandb  # late, as it is slow to import

    names = {
        "name": "run_name",
        "group": "run_group",
        "notes": "run_notes",
        "job_type": "run_job_type",
        "tags": "run_tags",
    }
    for key, value in given.items():
        try:
            wandb.Settings(**{names.get(key, key): value})
        except (wandb.errors.Error, ValueError) as error:
            raise UserError(f"logger.wandb.{key}={value}: {' '.join(str(error).split())}") from error


def _check_sent(directory: RunDirectory) -> None:
    # A record that is sent later would replace the metrics that are logged now.
    if not all(map(is_sent, offline_records(directory.wandb))):
        raise UserError(
            f"logger=wandb: {directory.wandb} holds offline records: send them first with "
            f"`wandb sync {directory.wandb}`, or stay offline with logger.wandb.offline=true"
        )


@start.register
@rank_zero_only
def _(logger: WandbRun) -> None:
    logger.start()


@record_figure.register
@rank_zero_only
def _(logger: WandbRun, key: str, path: Path, step: int, epoch: int, caption: str) -> None:
    import wandb

    # Epoch and step are in the same row, so that the slider of a media panel can follow either.
    logger.attempt(
        lambda run: run.log({key: [wandb.Image(str(path), caption=caption)], "epoch": epoch, STEP: step})
    )


@record_table.register
@rank_zero_only
def _(logger: WandbRun, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    import wandb

    data = [list(row) for row in rows]
    logger.attempt(lambda run: run.log({key: wandb.Table(columns=list(columns), data=data), STEP: step}))


@record_best.register
@rank_zero_only
def _(logger: WandbRun, monitor: str, value: float) -> None:
    # Not define_metric(summary="max"), which would turn the summary of the metric into a mapping.
    logger.summarise(
        {f"best/{monitor.replace('/', '_')}": value, "best/metric": monitor, "best/score": value}
    )


@record_summary.register
@rank_zero_only
def _(logger: WandbRun, values: Mapping[str, float]) -> None:
    # Not a row of the history, where the best val/elbo would look like the last epoch's.
    logger.summarise(values)


@record_checkpoint.register
@rank_zero_only
def _(logger: WandbRun, path: Path, metadata: dict[str, Any]) -> None:
    if logger.keep_best:
        logger.attempt(lambda run: _log_artifact(run, path, metadata))


@close.register
@rank_zero_only
def _(logger: WandbRun, exit_code: int) -> None:
    logger.end(exit_code)


def _log_artifact(run: "Run", path: Path, metadata: dict[str, Any]) -> None:
    import wandb

    artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
    # The artifact is laid out like the run directory, so that evaluate.py can read it.
    directory = RunDirectory.of_checkpoint(path)
    for file in filter(Path.exists, (path, directory.config, directory.expected)):
        artifact.add_file(str(file), name=str(file.relative_to(directory.path)))
    run.log_artifact(artifact, aliases=["best"])
