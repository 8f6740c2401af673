"""Sheets of the models of several runs: samples, latents over their priors, the same latents through all decoders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import PositiveInt
from torch import Tensor

from latentlab.cli.screen import warn
from latentlab.cli.script import conf_folder
from latentlab.compare.rate_distortion import short
from latentlab.compare.runs import Experiment, incomparable
from latentlab.errors import UserError
from latentlab.figures.drawing import Cells, Figure, cell, device_of, head, show, tile, undisturbed
from latentlab.figures.images import check_images
from latentlab.figures.latent_space import Cloud, cloud, sheet
from latentlab.run.directory import RunDirectory
from latentlab.run.results import Spread, read_results
from latentlab.run.trust import Trusted

if TYPE_CHECKING:  # Lightning is slow to import
    from latentlab.cli.evaluating import Saved
    from latentlab.trained import Trained

SCORES = ("test/elbo", "test/reconstruction")  # the first that all runs of an experiment have is in its title
DRAWS = 5_000  # of p(z), for its contours
COLUMNS = 5  # of a sheet of images
WIDTH = 36  # characters in a line of the title of latents
LETTERS = 15  # characters in an inch of a title, whose size is 8 points

T = TypeVar("T")


@dataclass(frozen=True)
class SavedRun:
    """A run whose model can be built, and its results."""

    saved: "Saved"
    results: Mapping[str, Any]


def read_model(run: RunDirectory, trust: Sequence[str] = ()) -> SavedRun:
    """Read the checkpoint of a run. Nothing of it is executed.

    Args:
        run: the run.
        trust: modules of the user whose classes its config may name.

    Raises:
        UserError: for a checkpoint or config that cannot be read or is not trusted.
    """
    from latentlab.cli import evaluating

    allowed = Trusted.of([conf_folder()], trust)
    saved = evaluating.read_saved(evaluating.checkpoints(run.path), "run", allowed)
    return SavedRun(saved, read_results(run.summary))


Models = Sequence[Experiment[SavedRun]]


def latents(experiments: Models, max_points: PositiveInt = 10_000) -> Figure:
    """Draw at most `max_points` draws of q(z) over contours of p(z), with the first seed of each experiment."""

    def drawn(run: "Trained") -> Cloud:
        model = run.having("latents")
        with undisturbed(model):
            return cloud(model, run.data.whole_test_set(), max_points, DRAWS)

    panels = [(_wrapped(title, WIDTH), found) for title, found in _panels(experiments, drawn)]
    return sheet(panels, incomparable(experiments))


def samples(experiments: Models, rows: Cells = 8, mean: bool = False) -> Figure:
    """Draw `rows` times `rows` samples x ~ p(x), or means of p(x|z), with the first seed of each experiment."""

    def drawn(run: "Trained") -> Tensor:
        model = run.having("samples")
        check_images(model)
        with undisturbed(model):
            return model.generate(rows**2, mean=mean)

    title = "means of p(x|z), z ~ p(z)" if mean else "samples x ~ p(x)"
    return image_sheet(_panels(experiments, drawn), rows, title, incomparable(experiments))


def decoders(experiments: Models, rows: Cells = 8) -> Figure:
    """Draw the means of p(x|z) for the same z in each experiment. z is drawn from p(z) of the first.

    Models with another number of latents are left out.
    """
    z: list[Tensor] = []

    def drawn(run: "Trained") -> Tensor:
        model = run.having("decoders")
        check_images(model)
        with undisturbed(model):
            z.extend([] if z else [model.sample_latents(rows**2).cpu()])
            if model.latent_dim != z[0].shape[1]:
                raise UserError(f"it has {model.latent_dim} latents, and the first run {z[0].shape[1]}")
            return model.decode(z[0].to(device_of(model)))

    title = "means of p(x|z) for the same z"
    return image_sheet(_panels(experiments, drawn), rows, title, incomparable(experiments))


def _panels(experiments: Models, draw: Callable[["Trained"], T]) -> list[tuple[str, T]]:
    """Return the title and the drawing of each experiment.

    Raises:
        UserError: if nothing can be drawn.
    """
    labels = short([each.label for each in experiments])
    drawn = [
        (_title(label, each), found)
        for label, each in zip(labels, experiments, strict=True)
        if (found := _first(each, draw)) is not None
    ]
    if not drawn:
        raise UserError("nothing can be drawn of these runs")
    return drawn


def _first(experiment: Experiment[SavedRun], draw: Callable[["Trained"], T]) -> T | None:
    """Draw the first run that can be drawn, and name those before it."""
    from latentlab.trained import Trained

    for run in experiment.runs:
        try:
            return draw(Trained(run.values.saved))
        except UserError as error:
            warn(f"left out {RunDirectory.of_checkpoint(run.values.saved.checkpoint).path}: {error}")
    return None


def _title(label: str, experiment: Experiment[SavedRun]) -> str:
    results = [run.values.results for run in experiment.runs]
    for score in SCORES:
        if all(score in each for each in results):
            spread = Spread.of([each[score] for each in results])
            error = "" if spread.deviation is None else f" ± {spread.deviation:.2f} ({spread.n} seeds)"
            return f"{label}\n{score} {spread.mean:.2f}{error}"
    return label


def _wrapped(title: str, width: int) -> str:
    return "\n".join(fill(line, width) for line in title.splitlines())


def image_sheet(panels: Sequence[tuple[str, Tensor]], columns: int, title: str, remark: str) -> Figure:
    """Draw grids of images (N, C, H, W) side by side, at most five in a row.

    Args:
        panels: the title and the images of each grid.
        columns: the number of images in a row of a grid.
        title: the title of the sheet.
        remark: a second line of the title.
    """
    side = 1.3 + 0.21 * columns
    across = min(len(panels), COLUMNS)
    down = -(-len(panels) // across)
    width, height = cell(panels[0][1], side)
    names = [_wrapped(name, int(LETTERS * width)) for name, _ in panels]
    above = 0.25 + 0.14 * max(len(name.splitlines()) for name in names)
    drawn = Figure(figsize=((width + 0.25) * across, (height + above) * down + 0.4))
    places = drawn.subplots(down, across, squeeze=False).flatten()
    for axes, name, (_, images) in zip(places, names, panels, strict=False):
        show(axes, tile(images.float().cpu(), columns))
        axes.set_title(name, fontsize=8)
    for axes in places[len(panels) :]:
        axes.remove()
    head(drawn, title, remark)
    return drawn
