"""The W&B run of a run directory: opened at its first use, and left behind if W&B fails.

The functions import `wandb` themselves, because the import takes a second that other loggers need not spend.
"""

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.run.files import read_text, write_text
from latentlab.run.results import read_mapping
from latentlab.tracking.rewind import logged, rewind, take
from latentlab.tracking.wandb_key import RUN_ID, Mode, has_key, own_settings, server
from latentlab.tracking.wandb_records import Row, as_row, entries, is_sent, offline_records

if TYPE_CHECKING:
    from wandb import Run, Settings

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
DATA_DIR = "WANDB_DATA_DIR"
LONGEST_ID = 1000  # bytes


class WandbRun(WandbLogger):
    """Lightning's logger for a W&B run.

    Training does not need W&B. If W&B fails, the run continues with metrics.csv, and the history is completed when the
    run ends or resumes.

    Args:
        directory: the run directory.
        mode: the mode in which the run is opened.
        given: arguments of `wandb.init`.
        keep_best: True to save the best checkpoint as an artifact.
        strict: True to end with an error if the run cannot be opened in this mode.
    """

    def __init__(
        self, directory: RunDirectory, mode: Mode, given: Mapping[str, Any], keep_best: bool, strict: bool
    ) -> None:
        super().__init__(save_dir=str(directory.path), project=given.get("project"))
        self.directory = directory
        self.keep_best = keep_best
        self._mode, self._given, self._strict = mode, given, strict
        self._summary: dict[str, Any] = {}
        self._sent: Counter[Row] = Counter()
        self._failed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = self._open()
        return self._experiment

    def attempt(self, use: Callable[["Run"], Any]) -> None:
        """Use the run. If W&B fails, warn once and disable it."""
        import wandb

        try:
            use(self.experiment)
        except UserError:
            raise
        except Exception as error:  # W&B raises errors of many kinds
            if not self._failed:
                log.warning("W&B failed (%s): the run continues, and metrics.csv is complete", _line(error))
            self._failed = True
            with suppress(Exception):
                wandb.teardown()  # otherwise it prints a traceback when the process ends
            with own_settings():
                self._experiment = wandb.init(mode="disabled")

    def start(self) -> None:
        """Open the run. Offline, its history is first made equal to metrics.csv. Online, W&B keeps the history."""
        missing = self._rewind() if self._mode == "offline" and self.directory.metrics.exists() else []
        self.attempt(lambda run: None)
        for metrics, step in missing:
            self.log_metrics(metrics, step)

    def _rewind(self) -> list[tuple[dict[str, float], int]]:
        rows = logged(self.directory.metrics)
        records = offline_records(self.directory.wandb)
        missing, self._sent = rewind(records, [_key(*row) for row in rows], entries, is_sent)
        return [row for row in rows if take(missing, _key(*row))]

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self.attempt(lambda run: super(WandbRun, self).log_hyperparams(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not (self._sent and take(self._sent, _key(metrics, step))):
            self.attempt(lambda run: run.log(_row(metrics, step)))

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Update the summary of the run."""
        self._summary.update(values)
        self.attempt(lambda run: run.summary.update(dict(values)))

    def end(self, exit_code: int) -> None:
        """End the run with an exit status. A run that was never opened stays so."""
        if self._experiment is None:
            return
        self._finish(exit_code)
        if self._failed:
            self._experiment = None
            self.start()
            self.summarise(self._summary)
            self._finish(exit_code)
        # The next run of this process has another folder.
        if os.environ.get(DATA_DIR) == str(self.directory.wandb):
            del os.environ[DATA_DIR]

    def _finish(self, exit_code: int) -> None:
        self.attempt(self._save_summary)
        self.attempt(lambda run: run.finish(exit_code=exit_code))

    def _save_summary(self, run: "Run") -> None:
        if run.settings.mode != "disabled":
            values = {key: value for key, value in run.summary._as_dict().items() if not key.startswith("_")}
            write_text(self.directory.wandb_summary, json.dumps(values))

    def _open(self) -> "Run":
        import wandb

        try:
            return self._init(self._mode)
        except wandb.errors.Error as error:
            if self._strict or self._mode != "online":
                raise UserError(
                    f"logger=wandb: {_line(error)} (logger.wandb.offline=true logs without the server)"
                ) from error
            log.warning("W&B: %s: logging offline instead", _line(error))
            self._mode = "offline"
            return self._init("offline")

    def _init(self, mode: Mode) -> "Run":
        directory = self.directory
        # W&B's default for tables and artifacts that wait for `wandb sync` is the user's home.
        os.environ.setdefault(DATA_DIR, str(directory.wandb))
        known, asked = _known_id(directory), os.environ.get(RUN_ID)
        if known and asked not in (None, "", known):
            log.warning("W&B: %s=%s is not used, because this run has the id %s", RUN_ID, asked, known)
        run = self._start(mode, known)
        write_text(directory.wandb_id, f"{run.id}\n")
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        if mode == "offline":
            # `wandb sync` replaces the summary by that of the latest record. Online, W&B restores it by itself.
            run.summary.update(_kept_summary(directory.wandb_summary))
        if not self._failed:
            _announce(run, mode, directory)
        return run

    def _start(self, mode: Mode, known: str | None) -> "Run":
        import wandb

        folder = str(self.directory.path)
        with _without_stderr():
            with own_settings():
                wandb.setup()
            # The offline record keeps `resume`: `wandb sync` then appends to the run instead of replacing it.
            resume: Literal["allow"] | None = "allow" if known else None
            with _without_launch():
                return wandb.init(
                    dir=folder, mode=mode, id=known, resume=resume, settings=_settings(), **self._given
                )


@contextmanager
def _without_launch() -> Iterator[None]:
    """Keep W&B from importing W&B Launch, which takes most of the time of its start.

    `wandb.init` asks it for inputs that a program has staged. A program that has staged some has imported it already.
    """
    from wandb.sdk.wandb_run import Run

    hook = "_detect_and_apply_job_inputs"
    found = getattr(Run, hook, None)
    if found is None or "wandb.sdk.launch" in sys.modules:
        yield
        return
    setattr(Run, hook, lambda run: None)
    try:
        yield
    finally:
        setattr(Run, hook, found)


def _settings() -> "Settings":
    import wandb

    # train.py prints messages and writes a log by itself. The commit is that of this code, wherever it is called.
    return wandb.Settings(
        base_url=server(),
        console="off",
        silent=True,
        init_timeout=60,
        git_root=str(Path(__file__).resolve().parent),
        x_transaction_log_flush_interval=0.1,  # seconds, in which a kill loses figures
    )


def _key(metrics: Mapping[str, Any], step: int | None) -> Row:
    return as_row(_row(metrics, step))


def _row(metrics: Mapping[str, Any], step: int | None) -> dict[str, Any]:
    return {**metrics, **({} if step is None else {STEP: step})}


def _known_id(directory: RunDirectory) -> str | None:
    """Return the id of the directory's W&B run, from its records if the file is missing or empty."""
    try:
        kept = read_text(directory.wandb_id, LONGEST_ID).strip() if directory.wandb_id.exists() else ""
    except ValueError as error:
        raise UserError(
            f"{directory.wandb_id} is damaged ({error}): delete it to start another W&B run"
        ) from error
    records = sorted(directory.wandb.glob("*run-*/run-*.wandb"))
    return kept or (records[-1].stem.removeprefix("run-") if records else None)


def _kept_summary(path: Path) -> dict[str, Any]:
    try:
        return read_mapping(path)
    except UserError as error:
        log.warning("W&B: the summary starts anew, because %s", error)
        return {}


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Redirect the standard error of this process and of the service that W&B starts, which would log there."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _announce(run: "Run", mode: Mode, directory: RunDirectory) -> None:
    why = "" if has_key() else "no API key found, "
    lines = {
        "online": f"W&B: logging to {run.url if mode == 'online' else ''}",  # W&B warns if asked offline
        # The whole folder, because a resumed run has several records.
        "offline": f"W&B: {why}logging offline; `wandb sync {directory.wandb}` sends it later",
        "disabled": "W&B: disabled by WANDB_MODE",
    }
    log.info(lines[mode])
