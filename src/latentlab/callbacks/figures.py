"""Figures, drawn while a model is trained and once it is tested."""

from collections.abc import Callable, Collection, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from latentlab.batch import Sets
from latentlab.callbacks.ema import averaged_weights
from latentlab.callbacks.progress import bar, headline
from latentlab.callbacks.signals import signals_of
from latentlab.data.module import DataModule
from latentlab.errors import UserError, did_you_mean
from latentlab.lit import LitModule
from latentlab.models.base import GenerativeModel
from latentlab.models.conditional import ClassModel
from latentlab.models.hierarchy import Hierarchy
from latentlab.models.vdm import DiffusionModel
from latentlab.run.directory import RunDirectory
from latentlab.tracking.record import log_figure, log_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DrawFigure = Callable[..., Any]  # returns a figure of Matplotlib, or None

# The models that a figure may need, in the words of the command line.
NEEDED: dict[type, str] = {
    GenerativeModel: "a model of data, such as model=vae",
    ClassModel: "a model of classes, such as model=conditional_vae or gmvae",
    Hierarchy: "a hierarchy, such as model=hierarchical_vae, ladder_vae or markovian_hvae",
    DiffusionModel: "a diffusion, such as model=vdm or latent_vdm",
}


class Figures(Callback):
    """Draws RUN/figures/NAME.png every n epochs and once the test set is scored, on rank zero.

    A figure is a function `draw(model, data)` of the model and the batches of the test set, such as those of
    `latentlab.figures`. It returns None if there is nothing to draw. The annotation of its first parameter is the class
    of models that it needs, and other models are refused. The numbers of a `TabledFigure` are logged as `tables/*` at
    the end. A run has the same results with and without figures. A signal ends the drawing at once.

    Args:
        every_n_epochs: the number of training epochs between two drawings, or None for the end only.
        at_end: the names of figures that are drawn at the end only. A figure of `latentlab.figures` that the run leaves
            out may be among them.
        more: the names of further figures of `latentlab.figures`, which are drawn at the end with their defaults.
        figures: the figures by name. None leaves one out.

    Raises:
        UserError: if a figure is not a function, if `at_end` names an unknown one, or if the model cannot have it.
    """

    def __init__(
        self,
        every_n_epochs: PositiveInt | None = 10,
        at_end: Sequence[str] = (),
        more: Sequence[str] = (),
        **figures: DrawFigure | None,
    ) -> None:
        self.every_n_epochs = every_n_epochs
        self.more = tuple(more)
        self.at_end = (*at_end, *self.more)
        self.figures = {name: draw for name, draw in figures.items() if draw is not None}
        for name, draw in self.figures.items():
            if not callable(draw):
                raise UserError(
                    f"figures.{name}={draw}: a figure is a function, such as "
                    "{_target_: latentlab.figures.samples, _partial_: true}"
                )
        for name in self.more:
            self.figures.setdefault(name, library_figure(name))
        for name in self.at_end:
            if name not in self.figures and name not in figures and not _in_library(name):
                raise UserError(
                    f"figures.at_end names {name}, which is not a figure of this run"
                    f"{did_you_mean(name, self.figures)} (its figures are {', '.join(self.figures) or 'none'})"
                )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for name, draw in self.figures.items():
            check_figure(name, draw, pl_module.model)
            check_drawn(name, pl_module.model)
        for name in self.more:
            check_needs(name, pl_module.model)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            names = [name for name in self.figures if name not in self.at_end]
            with averaged_weights(trainer, pl_module):  # the weights that were validated
                self._draw(trainer, pl_module, names, at_end=False)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module, self.figures, at_end=True)

    def _draw(
        self, trainer: Trainer, pl_module: LightningModule, names: Collection[str], at_end: bool
    ) -> None:
        if not (names and trainer.is_global_zero):
            return
        module = LitModule.of(pl_module)
        from latentlab.figures.drawing import undisturbed

        model = module.model
        signals = signals_of(trainer)
        with bar(shown=at_end, transient=True) as shown:
            for name in shown.track(list(names), description="figures"):
                figure = None
                if signals.received:
                    break
                # For functions without the decorator `figure`, such as those of users.
                with isolate_rng(), undisturbed(model), signals.interrupting():
                    figure = self.figures[name](model, examples_for(self.figures[name], module.data))
                if figure is not None:
                    self._record(trainer, name, figure, at_end)

    def _record(self, trainer: Trainer, name: str, figure: "Figure", at_end: bool) -> None:
        from latentlab.figures.drawing import TabledFigure, save

        caption = _caption(trainer, at_end)
        path = save(figure, RunDirectory(Path(trainer.default_root_dir)).figures / f"{name}.png", caption)
        step, epoch = trainer.global_step, trainer.current_epoch
        log_figure(trainer.loggers, f"figures/{name}", path, step, epoch, caption)
        if at_end and isinstance(figure, TabledFigure):
            for key, table in figure.tables.items():
                log_table(trainer.loggers, f"tables/{key}", table.columns, table.rows, step)


def _in_library(name: str) -> bool:
    from latentlab.figures import DRAWN  # late, as Matplotlib is slow to import

    return name in DRAWN


def library_figure(name: str) -> DrawFigure:
    """Return a figure of `latentlab.figures` by its name.

    Raises:
        UserError: if there is none.
    """
    from latentlab.figures import DRAWN

    if name not in DRAWN:
        raise UserError(
            f"figures.more names {name}, which is no figure{did_you_mean(name, DRAWN)} (there are {', '.join(DRAWN)})"
        )
    return DRAWN[name]


def check_needs(name: str, model: Any) -> None:
    """Check that a model has what a figure that was asked for by name needs.

    Raises:
        UserError: if it does not.
    """
    from latentlab.figures import NEEDS

    for check in NEEDS.get(name, ()):
        check(model)


def check_drawn(name: str, model: Any) -> None:
    """Refuse figures of images for a model of vectors.

    Raises:
        UserError: for one.
    """
    from latentlab.figures import NEEDS, check_images

    if isinstance(model, GenerativeModel) and check_images in NEEDS.get(name, ()):
        check_images(model)


def examples_for(draw: DrawFigure, data: DataModule) -> Any:
    """Return the test set, or both sets for a figure whose second parameter has the annotation `Sets`."""
    _, *others = signature(draw, eval_str=True).parameters.values()
    if others and others[0].annotation is Sets:
        return Sets(data.whole_set("train"), data.whole_test_set())
    return data.whole_test_set()


def check_figure(name: str, draw: DrawFigure, model: Any) -> None:
    """Check that a model has the class that a figure needs.

    Raises:
        UserError: if it has another one.
    """
    first = next(iter(signature(draw, eval_str=True).parameters.values()))
    kind = nn.Module if first.annotation is Parameter.empty else first.annotation
    if not isinstance(model, kind):
        raise UserError(
            f"figures.{name} needs {NEEDED.get(kind, kind.__name__)}: "
            f"choose one, or leave it out with ~figures.{name} (figures=none leaves out all)"
        )


def _caption(trainer: Trainer, at_end: bool) -> str:
    metrics = trainer.callback_metrics
    epoch = [] if at_end else [f"epoch {trainer.current_epoch + 1}"]
    scores = [
        f"{key.replace('/', ' ')} {metrics[key].item():.2f} nats"
        for key in headline(metrics, "test" if at_end else "val")
    ]
    return ", ".join([*epoch, *scores])
