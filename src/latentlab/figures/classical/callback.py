"""The callback of the classical figures, until they are functions too."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from matplotlib.figure import Figure
from pydantic import PositiveInt
from pytorch_lightning import Callback, LightningModule, Trainer

from latentlab.callbacks.ema import averaged_weights
from latentlab.callbacks.progress import headline
from latentlab.figures.drawing import Table, save, undisturbed
from latentlab.models.base import GenerativeModel
from latentlab.tracking.record import log_figure, log_table


@dataclass(frozen=True)
class Drawing:
    """What a callback drew: figures and tables by name, where a figure's name is its file's."""

    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


class FigureCallback(Callback, ABC):
    """Draws to RUN/figures/NAME.png every n epochs and once the test set is scored, on rank zero.

    Drawing leaves the random number generators, the modes of the modules and the gradients as they were: the
    numbers of a run do not depend on its figures. An error in drawing is a bug, and is raised.

    Args:
        every_n_epochs: the number of training epochs between two figures; None: only once the test set is scored.
    """

    def __init__(self, every_n_epochs: PositiveInt | None = 10) -> None:
        self.every_n_epochs = every_n_epochs

    @abstractmethod
    def draw(self, trainer: Trainer, model: GenerativeModel) -> Drawing:
        """Draw the model, which is in evaluation mode; called without gradients under a fixed seed."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw every n epochs."""
        if self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            with averaged_weights(trainer, pl_module):  # what was validated
                self._record(trainer, pl_module, at_end=False)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the weights that were tested, and log the tables."""
        self._record(trainer, pl_module, at_end=True)

    def _record(self, trainer: Trainer, pl_module: LightningModule, at_end: bool) -> None:
        if not trainer.is_global_zero:
            return
        model = cast(GenerativeModel, pl_module.model)
        caption = _caption(trainer, at_end)
        with undisturbed(model):
            drawing = self.draw(trainer, model)
        folder = Path(trainer.default_root_dir) / "figures"
        for name, figure in drawing.figures.items():
            path = save(figure, folder / f"{name}.png", caption)
            key, step, epoch = f"figures/{name}", trainer.global_step, trainer.current_epoch
            log_figure(trainer.loggers, key, path, step, epoch, caption)
        if at_end:
            for name, table in drawing.tables.items():
                log_table(trainer.loggers, f"tables/{name}", table.columns, table.rows, trainer.global_step)


def _caption(trainer: Trainer, at_end: bool) -> str:
    metrics = trainer.callback_metrics
    parts = [] if at_end else [f"epoch {trainer.current_epoch + 1}"]
    for key in headline(metrics, "test" if at_end else "val"):
        parts.append(f"{key.replace('/', ' ')} {metrics[key].item():.2f} nats")
    return ", ".join(parts)
