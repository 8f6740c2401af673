"""The names of all files in a run directory, each written once."""

import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from latentlab.errors import UserError
from latentlab.run.files import check_links, locked, naming, remove_drafts

log = logging.getLogger(__name__)

LOCK = ".lock"
NOT_WHOLE = (OSError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run.

    Attributes:
        path: the directory.
    """

    path: Path

    @classmethod
    def of_checkpoint(cls, checkpoint: str | Path) -> "RunDirectory":
        """Return the directory of the run that wrote RUN/checkpoints/NAME.ckpt."""
        return cls(Path(checkpoint).absolute().parent.parent)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def units(self) -> Path:
        return self.path / "units.csv"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def expected(self) -> Path:
        """The number that an evaluation must reproduce, see `latentlab.zoo`."""
        return self.path / "expected.json"

    @property
    def geodesics(self) -> Path:
        return self.path / "geodesics.csv"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def profile(self) -> Path:
        return self.path / "profile.txt"

    @property
    def traces(self) -> Path:
        return self.path / "profile"

    @property
    def wandb(self) -> Path:
        return self.path / "wandb"

    @property
    def wandb_id(self) -> Path:
        return self.path / "wandb_run_id.txt"

    @property
    def wandb_summary(self) -> Path:
        return self.wandb / "summary.json"  # the summary of the W&B run, not that of this run

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def hydra(self) -> Path:
        return self.path / ".hydra"

    @property
    def _files(self) -> tuple[Path, ...]:
        written = (
            self.config,
            self.summary,
            self.evaluation,
            self.geodesics,
            self.environment,
            self.metrics,
            self.units,
            self.log,
            self.wandb_id,
        )
        return (*written, self.path / LOCK)

    @property
    def _folders(self) -> tuple[Path, ...]:
        return self.checkpoints, self.figures, self.export, self.wandb, self.tensorboard, self.hydra

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory for this process, from its first write to its last.

        The directory is made if it is missing. Directories that stay empty are removed again. Drafts that a killed
        process left are removed at the end.

        Raises:
            UserError: if another process holds it, or a file of the run is a link to another place.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        self.check_links((*self._files, *self._folders))
        with _removed_if_empty(made), _held(self.path / LOCK) as descriptor:
            with naming(self.path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
            yield
            for folder in (self.path, self.checkpoints, self.figures):
                remove_drafts(folder)

    def check_links(self, paths: Iterable[Path]) -> None:
        """Check that some files and folders of the run are in its directory, which may come from somebody else.

        Raises:
            UserError: for a link to another place, a pipe or a device.
        """
        check_links(self.path, paths)

    def resumable_checkpoint(self) -> Path | None:
        """Return last.ckpt, or the earlier best.ckpt if last.ckpt is missing or damaged, or None."""
        found = [path for path in (self.last_checkpoint, self.best_checkpoint) if path.exists()]
        return next((path for path in found if _is_whole(path, path.stat().st_mtime_ns)), None)

    def clear(self) -> None:
        """Remove everything that a run wrote, except the id of its W&B run."""
        for path in {*self._files, *self._folders} - {self.wandb_id, self.path / LOCK}:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@cache
def _is_whole(path: Path, changed: int) -> bool:
    # A checkpoint of torch is a zip file with check sums. `changed` is the time of this version of the file.
    with suppress(*NOT_WHOLE), zipfile.ZipFile(path) as archive:
        if archive.testzip() is None:
            return True
    log.warning("%s is damaged and is passed over", path)
    return False


@contextmanager
def _held(lock: Path) -> Iterator[int]:
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(locked(lock))
        except BlockingIOError as error:
            raise UserError(
                f"{lock.parent}: another process{_holder(lock)} writes to this directory: wait until it ends, "
                "or choose another hydra.run.dir"
            ) from error
        yield descriptor


def _holder(lock: Path) -> str:
    try:
        return f" ({int(lock.read_text())})"
    except (OSError, ValueError):
        return ""


@contextmanager
def _removed_if_empty(folders: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):
            for folder in folders:
                folder.rmdir()
