"""Shared parts of all figures: batches, the state that drawing leaves alone, grids of images, PNG files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from matplotlib import figure as matplotlib_figure
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from latentlab.batch import Batch
from latentlab.models.base import device_of
from latentlab.run.files import replaced

DPI = 160
NOTEBOOK_DPI = 80
GREYS = 48
# Wider padding than Matplotlib's default keeps labels away from the edge.
LAYOUT = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
# Every figure starts from this seed, so that two epochs differ only by what the model has learned.
SEED = 2024

# The number of images in a row or a column.
Cells = Annotated[int, Field(gt=0, le=100)]
Data = Iterable[Batch]
P = ParamSpec("P")
Model = TypeVar("Model", bound=nn.Module)
Drawn = TypeVar("Drawn", bound=matplotlib_figure.Figure | None)


@dataclass(frozen=True)
class Table:
    """Numbers of a figure as rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Figure(matplotlib_figure.Figure):
    """A Matplotlib figure that a notebook shows, although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        return _png(self, NOTEBOOK_DPI)


class TabledFigure(Figure):
    """A figure that carries the numbers it shows.

    Attributes:
        tables: the numbers, by the name under which they are logged.
    """

    def __init__(self, tables: Mapping[str, Table], **options: Any) -> None:
        super().__init__(**options)
        self.tables = dict(tables)


def figure(draw: Callable[Concatenate[Model, P], Drawn]) -> Callable[Concatenate[Model, P], Drawn]:
    """Decorate a function `draw(model, data, **options)` so that it draws `undisturbed`.

    The annotation of `model` is the class of models that have this figure.
    """

    @wraps(draw)
    def drawn(model: Model, /, *data: P.args, **options: P.kwargs) -> Drawn:
        with undisturbed(model):
            return draw(model, *data, **options)

    return drawn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Use evaluation mode, no gradients and a fixed seed, and restore modes and random states afterwards."""
    modes = {module: module.training for module in model.modules()}
    device = device_of(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(SEED)
        model.eval()
        try:
            yield
        finally:
            # Module by module, because a frozen part may have been in evaluation mode before.
            for module, training in modes.items():
                module.training = training


def batches(model: nn.Module, data: Data) -> Iterator[Batch]:
    """Yield the batches on the model's device."""
    device = device_of(model)
    return (batch.to(device) for batch in data)


def spread(model: nn.Module, data: Data, n: int) -> Batch:
    """Return n examples at equal steps through the data, which may be sorted by class, or all if there are fewer."""
    xs, ys = zip(*batches(model, data), strict=True)
    x, y = torch.cat(xs), torch.cat(ys)
    chosen = torch.linspace(0, len(x) - 1, min(n, len(x))).long().to(x.device)
    return Batch(x[chosen], y[chosen])


def spread_over(n: int, at_most: int) -> list[int]:
    """Return the indices 0, ..., n - 1, or `at_most` of them at equal steps up to the last one."""
    return torch.linspace(n - 1, 0, min(n, at_most)).round().long().flip(0).tolist()


def tile(images: Tensor, columns: int, gap: int = 1) -> Tensor:
    """Arrange images (N, C, H, W) row by row as one picture with a grey gap between them.

    The picture is (H', W') for one channel, and (H', W', C) for more.
    """
    rows = -(-len(images) // columns)
    channels, height, width = images.shape[-3:]
    picture = torch.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 0.35)
    for index, image in enumerate(images.clamp(0, 1).cpu()):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        picture[:, top : top + height, left : left + width] = image
    return picture[0] if channels == 1 else picture.movedim(0, -1)


def cell(images: Tensor, side: float) -> tuple[float, float]:
    """Return the width and height of an image (*, C, H, W) with the area of a square of a given side, in inches.

    Very long images are drawn as if one side were five times the other.
    """
    ratio = min(max(images.shape[-1] / images.shape[-2], 0.2), 5.0) ** 0.5
    return side * ratio, side / ratio


def show(axes: Axes, picture: Tensor, title: str = "") -> None:
    """Show a picture (H, W) or (H, W, 3) with values from 0 (black) to 1 (white, or full colour), without ticks."""
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=10)


def grids(panels: Mapping[str, Tensor], columns: int, side: float = 4.4) -> Figure:
    """Show grids of images (N, C, H, W) side by side, each under its title.

    Args:
        panels: the images by title.
        columns: the number of images in a row.
        side: the side of a grid of square images, in inches.
    """
    width, height = cell(next(iter(panels.values())), side)
    drawn = Figure(figsize=(width * len(panels), height + 0.4))
    places = drawn.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, images) in zip(places, panels.items(), strict=True):
        show(axes, tile(images, columns), title)
    return drawn


def name_rows(axes: Axes, picture: Tensor, names: Sequence[str]) -> None:
    """Write the names of the rows of a picture that `tile` made with a gap of one pixel."""
    step = (len(picture) + 1) / len(names)
    axes.set_yticks([step * (row + 0.5) - 1 for row in range(len(names))], names)
    axes.tick_params(length=0)


def head(drawn: Figure, *lines: str) -> None:
    """Write lines above a figure, wrapped to its width. Empty ones are left out."""
    width = int(11 * drawn.get_figwidth())  # characters
    drawn.suptitle("\n".join(fill(line, width) for line in lines if line), fontsize=10)


def plain(axes: Axes) -> None:
    """Hide the upper and the right edge of a panel."""
    axes.spines[["top", "right"]].set_visible(False)


def save(drawn: matplotlib_figure.Figure, path: Path, caption: str = "") -> Path:
    """Write a figure as a PNG, PDF or SVG file with a small caption in its lower right corner."""
    drawn.set_layout_engine(LAYOUT)
    FigureCanvasAgg(drawn)  # pyplot would keep every figure alive
    drawn.supxlabel(caption, x=0.99, ha="right", fontsize=7, color="0.4")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".png":
        drawn.savefig(path, facecolor="white")
        return path
    content = _png(drawn, DPI)
    with replaced(path) as draft:
        draft.write_bytes(content)
    return path


def _png(drawn: matplotlib_figure.Figure, dpi: int) -> bytes:
    picture, content = pixels(drawn, dpi), BytesIO()
    (picture if _in_colour(drawn) else compact(picture)).save(content, "PNG")
    return content.getvalue()


def pixels(drawn: matplotlib_figure.Figure, dpi: int) -> Image.Image:
    """Draw a figure on white. `savefig` gives the same pixels, and takes twice as long, because it draws twice."""
    drawn.set_layout_engine(LAYOUT)
    canvas = FigureCanvasAgg(drawn)  # pyplot would keep every figure alive
    before = {"dpi": drawn.dpi, "facecolor": drawn.get_facecolor()}
    drawn.set(dpi=dpi, facecolor="white")
    canvas.draw()
    drawn.set(**before)
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _in_colour(drawn: matplotlib_figure.Figure) -> bool:
    # A palette of 256 colours would change the colours of images.
    shown = [image.get_array() for axes in drawn.axes for image in axes.images]
    return any(array is not None and array.ndim == 3 for array in shown)


def compact(picture: Image.Image) -> Image.Image:
    """Reduce a picture to a palette, which looks the same and takes a third of the space."""
    red, green, blue = picture.split()
    if red == green == blue:
        return _in_greys(red)
    # Coverage instead of pixel counts: the few pixels of a legend need the exact colours of the points.
    return picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _in_greys(picture: Image.Image) -> Image.Image:
    # Equal steps from black to white. A search for the best levels takes longer than the drawing.
    levels = [round(255 * level / (GREYS - 1)) for level in range(GREYS)]
    indices = picture.point([round(grey / 255 * (GREYS - 1)) for grey in range(256)])
    indices.putpalette([level for level in levels for _ in "rgb"])
    return indices
