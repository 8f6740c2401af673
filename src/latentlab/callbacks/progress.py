"""The progress of training: a bar on a terminal, one line per epoch elsewhere."""

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping
from time import perf_counter
from typing import Any

from pydantic import PositiveFloat
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich import progress
from rich.console import Console
from torch import Tensor

from latentlab.callbacks.timing import batch_examples
from latentlab.lit import LitModule

log = logging.getLogger(__name__)

# Marks a record that the screen shows already, see `cli.calls`.
SHOWN = {"shown": True}
# The width of the bar at its shortest, the time left, and the spaces between.
TIMES = 14
# The bound, or the score of a model without one.
SCORES = ("elbo", "reconstruction")


def bar(*columns: progress.ProgressColumn, shown: bool = True, **options: Any) -> progress.Progress:
    """Return a bar on standard error, if that is a terminal. Other output on a terminal appears above the bar."""
    return progress.Progress(
        *columns,
        console=Console(stderr=True, soft_wrap=True),
        disable=not (shown and sys.stderr.isatty()),
        redirect_stdout=sys.stdout.isatty(),
        **options,
    )


class Display(ABC):
    """A place for progress. `share` is the finished part of the training, from 0 to 1."""

    @abstractmethod
    def refresh(self, title: str, share: float, figures: str) -> None:
        """Show the progress within an epoch."""

    @abstractmethod
    def end_epoch(self, title: str, share: float, figures: str) -> None:
        """Show the figures of a finished epoch."""

    @abstractmethod
    def close(self) -> None:
        """Restore the terminal."""


class Bar(Display):
    """One bar for the whole training, on standard error.

    Args:
        share: the part that was finished before a resume.
    """

    def __init__(self, share: float) -> None:
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("{task.fields[figures]}"),
        )
        # The bar fills the rest of the line. Progress redraws it, so no thread is needed.
        self.bar = bar(*columns, expand=True, auto_refresh=False)
        self.task = self.bar.add_task("", total=1.0, figures="")
        self.bar.update(self.task, completed=share)
        self.bar.start()

    def refresh(self, title: str, share: float, figures: str) -> None:
        room = self.bar.console.width - len(title) - TIMES
        while len(figures) > room and "  " in figures:  # a narrow terminal
            figures = figures.rpartition("  ")[0]
        self.bar.update(self.task, description=title, completed=share, figures=figures, refresh=True)

    def end_epoch(self, title: str, share: float, figures: str) -> None:
        self.refresh(title, share, figures)

    def close(self) -> None:
        self.bar.stop()


class Lines(Display):
    """One line per epoch in the log."""

    def refresh(self, title: str, share: float, figures: str) -> None:
        pass

    def end_epoch(self, title: str, share: float, figures: str) -> None:
        log.info("%s  %s", title, figures)

    def close(self) -> None:
        pass


class Notebook(Display):
    """One line in the output of a notebook's cell, which is replaced at every update.

    Lines would fill the notebook, and a bar needs a terminal.
    """

    def __init__(self) -> None:
        from IPython.display import display

        self.handle = display(_text(""), raw=True, display_id=True)

    def refresh(self, title: str, share: float, figures: str) -> None:
        self.handle.update(_text(f"{title}  {share:4.0%}  {figures}"), raw=True)

    def end_epoch(self, title: str, share: float, figures: str) -> None:
        self.refresh(title, share, figures)
        log.info("%s  %s", title, figures, extra=SHOWN)  # for the log of the run

    def close(self) -> None:
        pass


def _text(line: str) -> dict[str, str]:
    return {"text/plain": line}


def in_notebook() -> bool:
    """Return True in a Jupyter kernel, whose cells have outputs that can be replaced."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config


class Silence(Display):
    """No progress."""

    def refresh(self, title: str, share: float, figures: str) -> None:
        pass

    def end_epoch(self, title: str, share: float, figures: str) -> None:
        pass

    def close(self) -> None:
        pass


class Progress(ProgressBar):
    """Shows epoch, bounds and examples per second: as a bar on a terminal, else as one line per epoch in the log.

    Args:
        refresh_seconds: the shortest time between two updates of the bar.
    """

    def __init__(self, refresh_seconds: PositiveFloat = 0.2) -> None:
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self._display: Display = Silence()
        self._enabled = True
        self._examples = 0
        self._start = self._now = self._due = 0.0
        self._old: dict[str, Tensor] = {}  # the metrics of earlier epochs
        self._validated: int | None = None  # the epoch of the last validation

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        """Show nothing. Lightning calls this on every rank but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled:
            self._display = _display(_share(trainer, 0))
        self.on_train_epoch_start(trainer, pl_module)  # a resumed epoch does not start again

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._examples = 0
        self._old = dict(trainer.callback_metrics)
        self._start = self._now = perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._examples += batch_examples(batch)
        self._now = perf_counter()
        if self._now >= self._due:
            self._due = self._now + self.refresh_seconds
            self._display.refresh(
                _title(trainer), _share(trainer, batch_idx + 1), self._figures(trainer, False)
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        share = _share(trainer, trainer.num_training_batches)
        self._display.end_epoch(_title(trainer), share, self._figures(trainer, True))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._display.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._display.close()

    def _figures(self, trainer: Trainer, ended: bool) -> str:
        metrics = trainer.callback_metrics
        # The trained bound has the name of its objective, such as train/iwae.
        trained = [name for name in metrics if name.startswith("train/")][:1]
        if ended:  # an epoch may be shorter than log_every_n_steps
            trained = [name for name in trained if metrics[name] is not self._old.get(name)]
        rate = self._examples * trainer.world_size / max(self._now - self._start, 1e-9)
        return "  ".join(
            [*_shown(metrics, trained), *self._validation(trainer, ended), f"{rate:,.0f} examples/s"]
        )

    def _validation(self, trainer: Trainer, ended: bool) -> list[str]:
        # The scores of an earlier epoch are marked, and left out of the line of a finished epoch.
        metrics, epoch = trainer.callback_metrics, self._validated
        if epoch is None or (ended and epoch != trainer.current_epoch):
            return []
        scores = dict.fromkeys([LitModule.of(trainer.lightning_module).chosen_by, *headline(metrics, "val")])
        shown = _shown(metrics, [name for name in scores if name.startswith("val/") and name in metrics])
        mark = "" if epoch == trainer.current_epoch else f" (epoch {epoch + 1})"
        return [f"{score}{mark}" for score in shown]


def headline(metrics: Container[str], split: str) -> list[str]:
    """Return the name of a split's score, such as val/elbo, or nothing if none was logged."""
    return [name for name in (f"{split}/{score}" for score in SCORES) if name in metrics][:1]


def _shown(metrics: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    return [f"{name.replace('/', ' ')} {metrics[name].item():.2f}" for name in names]


def _display(share: float) -> Display:
    if in_notebook():
        return Notebook()
    return Bar(share) if sys.stderr.isatty() else Lines()


def _title(trainer: Trainer) -> str:
    limit = f"/{trainer.max_epochs}" if _has_limit(trainer) else ""
    return f"epoch {trainer.current_epoch + 1}{limit}"


def _has_limit(trainer: Trainer) -> bool:
    return trainer.max_epochs is not None and trainer.max_epochs > 0


def _share(trainer: Trainer, batches: int | float) -> float:
    # The finished part of the training after this number of batches of the current epoch.
    if _has_limit(trainer):
        epochs = trainer.current_epoch + batches / trainer.num_training_batches
        return min(1.0, epochs / (trainer.max_epochs or 1))
    return min(1.0, trainer.global_step / trainer.max_steps) if trainer.max_steps > 0 else 0.0
