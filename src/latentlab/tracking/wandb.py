"""Weights & Biases: one run per run directory, offline when there is no key.

`wandb` is imported inside the functions: importing it takes a second, which other loggers need not pay.
"""

import logging
import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from latentlab.errors import UserError
from latentlab.tracking.record import Rows, close, record_checkpoint, record_figure, record_table

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
DATA_DIR = "WANDB_DATA_DIR"
Mode = Literal["online", "offline", "disabled"]


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
    offline: bool | None = None,
    log_model: Literal["best", False] = False,
) -> WandbRun:
    """Open a W&B run in `save_dir`/wandb, or go on with the one whose id `save_dir`/wandb_run_id.txt holds.

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
        UserError: when `offline` is False without a key, or W&B refuses the run.
    """
    mode = choose_mode(offline)
    run = None
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        run = _open_run(
            save_dir,
            mode=mode,
            project=project,
            entity=entity,
            name=name,
            group=group,
            tags=list(tags),
            notes=notes,
            job_type=job_type,
        )
        _say_where(run, mode, save_dir)
    return WandbRun(run, save_dir, project, keep_best=log_model == "best")


def choose_mode(offline: bool | None) -> Mode:
    """Where a run is logged: as configured, else as WANDB_MODE says, else online if there is a key.

    Raises:
        UserError: when `offline` is False and there is no key.
    """
    if offline is False and not has_key():
        raise UserError("logger.offline=false: no W&B API key found; run `wandb login` or set WANDB_API_KEY")
    if offline is not None:
        return "offline" if offline else "online"
    known: dict[str, Mode] = {
        "online": "online",
        "offline": "offline",
        "dryrun": "offline",
        "disabled": "disabled",
    }
    return known.get(os.environ.get("WANDB_MODE", ""), "online" if has_key() else "offline")


def has_key() -> bool:
    """Whether WANDB_API_KEY or the netrc file holds a key for the W&B server; asks no server."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    chosen = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else []
    files = chosen or [Path.home() / ".netrc", Path.home() / "_netrc"]
    return bool(os.environ.get("WANDB_API_KEY")) or any(_names_host(file, host) for file in files)


def _names_host(file: Path, host: str) -> bool:
    try:
        return host in netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def _open_run(save_dir: str, mode: Mode, **arguments: Any) -> "Run":
    import wandb

    # Tables and artifacts wait here for `wandb sync`; W&B's own choice is the user's home.
    os.environ.setdefault(DATA_DIR, _folder(save_dir))
    keep = Path(save_dir) / "wandb_run_id.txt"
    run_id = keep.read_text().strip() if keep.exists() else None
    resume: Literal["allow"] | None = "allow" if run_id and mode == "online" else None
    # The training script prints what there is to say, and writes its own log.
    settings = wandb.Settings(console="off", silent=True, init_timeout=60)
    try:
        run = wandb.init(dir=save_dir, mode=mode, id=run_id, resume=resume, settings=settings, **arguments)
    except wandb.errors.Error as error:
        raise UserError(f"logger=wandb: {error} (logger.offline=true logs without the server)") from error
    keep.write_text(f"{run.id}\n")
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


def _folder(save_dir: str) -> str:
    return str(Path(save_dir).absolute() / "wandb")


def _say_where(run: "Run", mode: Mode, save_dir: str) -> None:
    folder = _folder(save_dir)
    # A run's directory ends in `files`, beside the record that `wandb sync` reads.
    local = Path(run.dir).parent
    why = "" if has_key() else "no API key found, "
    lines = {
        "online": f"W&B: logging to {run.url if mode == 'online' else ''}",  # W&B warns when asked offline
        "offline": f"W&B: {why}logging offline to {folder}; `wandb sync {local}` sends it later",
        "disabled": "W&B: disabled by WANDB_MODE",
    }
    log.info(lines[mode])


@record_figure.register
def _(logger: WandbRun, key: str, path: Path, step: int, caption: str) -> None:
    logger.log_image(key, [str(path)], step=step, caption=[caption])


@record_table.register
def _(logger: WandbRun, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    logger.log_table(key, columns=list(columns), data=[list(row) for row in rows], step=step)


@record_checkpoint.register
@rank_zero_only
def _(logger: WandbRun, path: Path, metadata: dict[str, Any]) -> None:
    import wandb

    if logger.keep_best:
        artifact = wandb.Artifact(f"model-{logger.version}", type="model", metadata=metadata)
        artifact.add_file(str(path), name=path.name)
        logger.experiment.log_artifact(artifact, aliases=["best"])


@close.register
@rank_zero_only
def _(logger: WandbRun, exit_code: int) -> None:
    logger.experiment.finish(exit_code=exit_code)
    # The next run of this process has a folder of its own.
    if os.environ.get(DATA_DIR) == _folder(logger.save_dir or ""):
        del os.environ[DATA_DIR]
