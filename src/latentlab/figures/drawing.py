"""Figures of a model while it trains and once it is tested; the siblings of this file say what is drawn."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from pydantic import PositiveInt
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from latentlab.callbacks.ema import averaged_weights
from latentlab.figures.headline import headline
from latentlab.models.base import GenerativeModel
from latentlab.tracking import log_figure, log_table

DPI = 160
GREYS = 48
# Beside matplotlib's own, room for labels at the edge.
LAYOUT = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
# The same draws in every frame: frames differ by what the model has learned.
SEED = 2024


@dataclass(frozen=True)
class Table:
    """Rows for a logger that shows tables."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


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


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients and a fixed seed inside; everything as it was outside."""
    modes = {module: module.training for module in model.modules()}
    with isolate_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        model.eval()
        try:
            yield
        finally:
            # Module by module: a part may have been frozen in evaluation mode.
            for module, training in modes.items():
                module.training = training


def save(figure: Figure, path: Path, caption: str) -> Path:
    """Write a figure as a PNG file with a small caption in its lower right corner."""
    figure.set_layout_engine(LAYOUT)
    FigureCanvasAgg(figure)  # without pyplot: its global state would keep every figure alive
    figure.supxlabel(caption, x=0.99, ha="right", fontsize=7, color="0.4")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=DPI, facecolor="white")
    compact(Image.open(drawn).convert("RGB")).save(path, optimize=True)
    return path


def compact(picture: Image.Image) -> Image.Image:
    """The picture with a palette, which looks the same and takes a third of the space in every logger."""
    red, green, blue = picture.split()
    if red == green == blue:
        return red.quantize(GREYS)
    # Not by the numbers of pixels: the colours of a legend cover few, and must be those of the points.
    return picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _caption(trainer: Trainer, at_end: bool) -> str:
    metrics = trainer.callback_metrics
    parts = [] if at_end else [f"epoch {trainer.current_epoch + 1}"]
    for key in headline(metrics, "test" if at_end else "val"):
        parts.append(f"{key.replace('/', ' ')} {metrics[key].item():.2f} nats")
    return ", ".join(parts)
