"""Means of p(x|z) along paths through the latent space: interpolations and traversals."""

from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import cosine_similarity

from latentlab.errors import UserError, did_you_mean
from latentlab.figures.drawing import Cells, Data, Figure, cell, figure, name_rows, show, spread, tile
from latentlab.geometry import decoder_means, geodesics
from latentlab.models.base import GenerativeModel
from latentlab.trace import Traced

# The test examples whose latents give the scale and the activity of each latent.
EXAMPLES = 2_000
ROUNDS = 5  # of the optimisation of geodesics, which are only looked at
# Maps the ends of N paths, each (N, D), and times (T,) from 0 to 1 to points on the paths, (N, T, D).
Path = Callable[[GenerativeModel, Tensor, Tensor, Tensor], Tensor]


def straight(model: GenerativeModel, start: Tensor, end: Tensor, times: Tensor) -> Tensor:
    """Points (1 - t) a + t b."""
    return torch.lerp(start[:, None], end[:, None], times[:, None])


def spherical(model: GenerativeModel, start: Tensor, end: Tensor, times: Tensor) -> Tensor:
    r"""Points $\frac{\sin((1-t)\,\Omega)}{\sin\Omega} a + \frac{\sin(t\,\Omega)}{\sin\Omega} b$ at the angle $\Omega$.

    White 2016, "Sampling generative networks" (https://arxiv.org/abs/1609.04468). Ends in one or in opposite
    directions have the straight path.
    """
    angle = cosine_similarity(start.double(), end.double(), dim=1).clamp(-1, 1).arccos()[:, None, None]
    t = times.double()[:, None]
    weights = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()  # (N, T, 1)
    points = (weights[0] * start[:, None] + weights[1] * end[:, None]).to(start)
    return torch.where(angle.sin() > 1e-6, points, straight(model, start, end, times))


def geodesic(model: GenerativeModel, start: Tensor, end: Tensor, times: Tensor) -> Tensor:
    """Points on the geodesics of the decoder's pull-back metric at equal steps of time, see `geometry.geodesics`."""
    return geodesics(decoder_means(model), start, end, len(times), ROUNDS).curves


# The paths of `interpolations` by name.
PATHS: dict[str, Path] = {"straight": straight, "spherical": spherical, "geodesic": geodesic}


def paths_of(model: GenerativeModel) -> list[str]:
    """Return the names of the paths that a model has. Geodesics need a decoder of real latents."""
    try:
        decoder_means(model)
    except UserError:
        return [name for name in PATHS if name != "geodesic"]
    return list(PATHS)


@figure
def interpolations(
    model: GenerativeModel,
    data: Data,
    pairs: Cells = 4,
    columns: Cells = 10,
    paths: Sequence[str] | None = None,
) -> Figure:
    """Draw means of p(x|z) on paths between the posterior means of two test images, which stand at the ends of a row.

    Args:
        model: the model.
        data: the images.
        pairs: the number of pairs of images.
        columns: the number of points on a path.
        paths: the kinds of paths, a row for each; None for all that the model has.

    Raises:
        UserError: for an unknown kind, or geodesics of a model without them.
    """
    kinds = paths_of(model) if paths is None else paths
    for name in kinds:
        if name not in PATHS:
            raise UserError(
                f"interpolations: there is no path {name}{did_you_mean(name, PATHS)} (there are {', '.join(PATHS)})"
            )
    batch = spread(model, data, 2 * pairs)
    number = len(batch.x) // 2
    z = model.posterior_mean(model.observe(batch))
    start, end = z[:number], z[number : 2 * number]
    times = torch.linspace(0, 1, columns).to(z)
    means = {name: _decoded(model, PATHS[name](model, start, end, times)) for name in kinds}
    return path_rows(batch.x[:number], batch.x[number : 2 * number], means)


def _decoded(model: GenerativeModel, points: Tensor) -> Tensor:
    """Return the means of p(x|z) for points (N, T, D), (N, T, *x_shape)."""
    return model.decode(points.flatten(0, 1)).unflatten(0, points.shape[:2])


def path_rows(first: Tensor, last: Tensor, means: Mapping[str, Tensor]) -> Figure:
    """Draw a row for each pair of images (N, C, H, W) and each kind of means (N, T, C, H, W)."""
    rows = [
        torch.cat([first[n][None], each[n], last[n][None]])
        for n in range(len(first))
        for each in means.values()
    ]
    return named_rows(
        rows, list(means) * len(first), "test images, and means of p(x|z) on paths between their z"
    )


def named_rows(rows: Sequence[Tensor], names: Sequence[str], title: str) -> Figure:
    """Draw rows of images, each (T, C, H, W), with their names."""
    columns = len(rows[0])
    wide, high = cell(rows[0], 0.62)
    drawn = Figure(figsize=(wide * columns + 1.4, high * len(rows) + 0.6))
    axes = drawn.add_subplot()
    picture = tile(torch.cat(list(rows)), columns)
    show(axes, picture)
    name_rows(axes, picture, names)
    axes.tick_params(labelsize=8)
    drawn.suptitle(title, fontsize=10)
    return drawn


@figure
def traversals(
    model: GenerativeModel, data: Data, rows: Cells = 10, columns: Cells = 11, extent: PositiveFloat = 3.0
) -> Figure | None:
    """Draw means of p(x|z) while one latent moves and the others stay at the posterior means of a test image.

    One-hot latents have no such figure, and the result is None.

    A row moves one latent by `extent` standard deviations of q(z) to both sides of its mean. The first row has the
    most active latent, whose posterior mean varies most over the test images.

    Args:
        model: the model.
        data: the images.
        rows: the number of latents.
        columns: the number of values of a latent.
        extent: the largest distance from the mean of q(z), in standard deviations.
    """
    if _one_hot(model):
        return None
    x = model.observe(spread(model, data, EXAMPLES))
    means, z = model.posterior_mean(x), model.encode(x)
    order = means.var(0).argsort(descending=True)
    steps = torch.linspace(-extent, extent, columns).to(z)
    drawn = [
        _decoded(model, traversal(means[0], index, z[:, index], steps)[None])[0]
        for index in order[:rows].tolist()
    ]
    names = [f"$z_{{{index + 1}}}$" for index in order[:rows].tolist()]
    title = f"one latent moved by {extent:g} standard deviations of q(z), the most active first"
    return named_rows(drawn, names, title)


def traversal(base: Tensor, index: int, values: Tensor, steps: Tensor) -> Tensor:
    """Return copies of z (D,) with the mean of `values` (N,) plus `steps` (T,) deviations in one latent, (T, D)."""
    z = base.repeat(len(steps), 1)
    z[:, index] = values.mean() + steps * values.std()
    return z


def check_real(model: GenerativeModel) -> None:
    """Refuse one-hot latents.

    Raises:
        UserError: for them.
    """
    if _one_hot(model):
        raise UserError(
            "traversals moves real latents, and those of this model are one-hot: choose model=vae"
        )


def _one_hot(model: GenerativeModel) -> bool:
    return isinstance(model, Traced) and model.discrete
