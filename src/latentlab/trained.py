"""A trained run from Python: its model, data and results, and arrays of latents, samples and likelihoods."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from math import nan
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from latentlab import evaluation, figures
from latentlab.batch import Batch
from latentlab.callbacks.figures import check_figure, check_needs, examples_for
from latentlab.cli import evaluating
from latentlab.cli.build import build_saved
from latentlab.data.loader import seeded
from latentlab.data.module import DataModule
from latentlab.draws import reproducible
from latentlab.errors import UserError, did_you_mean
from latentlab.figures.drawing import device_of
from latentlab.models.base import GenerativeModel
from latentlab.run.checkpoints import load_state
from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import read_curve, read_rows
from latentlab.run.results import read_results

Array = NDArray[Any]
# The examples that are generated at a time.
SAMPLES = 500
# A split of the data by its name, or images (N, C, H, W) as the model sees them, with labels (N,) if it observes them.
Examples = str | Array | Tensor | tuple[Array | Tensor, Array | Tensor]


def _without_bound(model: GenerativeModel) -> str:
    return "" if model.bounded else "has no bound on log p(x)"


def _without_weights(model: GenerativeModel) -> str:
    return _without_bound(model) or ("" if model.weighted else "has no importance weights: use elbos")


# The reasons why a model may lack some arrays, "" for one that has them.
MISSING: dict[str, Callable[[GenerativeModel], str]] = {
    "latents": lambda model: (
        "" if model.learned_inference else "has a fixed q(z|x), which only adds noise to x"
    ),
    "samples": lambda model: "" if model.generative else "has no distribution p(x) to draw from",
    "elbos": _without_bound,
    "examples": _without_bound,
    "log_likelihoods": _without_weights,
}


class Trained:
    """A trained run: its model in evaluation mode, its data, its results.

    Arrays are NumPy arrays on the CPU. All draws are seeded, so that a call gives the same numbers every time. The test
    bound and the likelihood are those that `evaluate.py` reports.

    Args:
        saved: the checkpoint with its config.
        device: the device of the model, "auto" for a GPU if there is one.
        root: the folder of data sets, or the place of your own images; None for the same as in training.
        data: the data of the run, if they are read already.

    Attributes:
        checkpoint: the checkpoint of the model.
        path: the run directory.
        model: the model. Its parameters need no gradients.
        config: the config of the run.
    """

    def __init__(
        self,
        saved: evaluating.Saved,
        device: str = "auto",
        root: str | None = None,
        data: DataModule | None = None,
    ) -> None:
        evaluating.quieten_lightning()
        self.checkpoint = saved.checkpoint
        self.path = RunDirectory.of_checkpoint(saved.checkpoint).path
        self.config: Mapping[str, Any] = saved.config
        self._saved, self._root = saved, root
        if data is not None:
            self.data = data
        with torch.random.fork_rng([]):  # new weights are drawn before the trained ones replace them
            module = evaluating.rebuild_module(saved)
        load_state(module, saved.state, str(saved.checkpoint))
        module.to(_device(device)).eval().requires_grad_(False)
        self.model: Any = module.model

    def __repr__(self) -> str:
        names = self.config["names"]
        return f"Trained({names['model']} on {names['data']}, {str(self.path)!r})"

    @cached_property
    def data(self) -> DataModule:
        """The data of the run, read at first use."""
        data = evaluating.rebuild_data(self._saved, {"root": self._root, "path": self._root})
        data.prepare_data()
        data.setup("test")
        return data

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The results in summary.json, {} for a run that has not finished."""
        return read_results(RunDirectory(self.path).summary)

    @cached_property
    def metrics(self) -> dict[str, list[float]]:
        """The columns of metrics.csv, of equal length. A metric that was not logged in a row is NaN there."""
        rows = read_rows(RunDirectory(self.path).metrics)
        names = list(dict.fromkeys(name for row in rows for name in row))
        return {name: [float(row.get(name) or nan) for row in rows] for name in names}

    def curve(self, metric: str = "val/elbo") -> dict[int, float]:
        """Return a metric of metrics.csv by epoch, counted from 1."""
        return read_curve(RunDirectory(self.path).metrics, metric)

    def images(self, split: str = "test") -> Array:
        """Return the images of a split as the model sees them, (N, C, H, W)."""
        return _joined(batch.x for batch in self._batches(split))

    def labels(self, split: str = "test") -> Array:
        """Return the labels of a split, (N,), -1 for none."""
        return _joined(batch.y for batch in self._batches(split))

    def latents(self, x: Examples = "test", mean: bool = False) -> Array:
        """Return a draw z ~ q(z|x) for each example, or the mean of q(z|x), flat as from `model.encode`, (N, D)."""
        model = self.having("latents")
        return self._per_example(x, model.posterior_mean if mean else model.encode)

    def reconstructions(self, x: Examples = "test") -> Array:
        """Return the mean of p(x|z) with z ~ q(z|x) for each example, (N, C, H, W)."""
        return self._per_example(x, self.having("reconstructions").reconstruct)

    def samples(self, n: int = 64, seed: int = 0, mean: bool = False) -> Array:
        """Return n samples x ~ p(x), or the means of p(x|z) for the same z under the same seed, (n, C, H, W)."""
        model = self.having("samples")
        if n < 1:
            raise UserError(f"n={n}: give at least 1")
        if seed < 0:
            raise UserError(f"seed={seed}: give 0 or more")
        return _joined(_generated(model, n, seed, mean))

    def elbos(self, x: Examples = "test", samples: int | None = None) -> Array:
        """Return the ELBO of each example, (N,), in nats. The mean over the test set is `test/elbo`."""
        return self.terms(x, samples)[self.having("elbos").bound]

    def terms(
        self, x: Examples = "test", samples: int | None = None, test: bool | None = None
    ) -> dict[str, Array]:
        """Return the bound and its parts for each example, by name, each (N,), in nats.

        Args:
            x: the examples.
            samples: the draws of the latents per example, by default as many as `evaluate.py` makes.
            test: True for the terms of a test, by default for the test set alone.
        """
        model = self.having("terms")
        number = evaluation.choose_samples(model, samples)
        rows = list(
            evaluation.terms(model, self._batches(x), number, test=_is(x, "test") if test is None else test)
        )
        return {name: _joined(row[name] for row in rows) for name in rows[0]}

    def log_likelihoods(self, x: Examples = "test", samples: int | None = None, chunk: int = 50) -> Array:
        r"""Return the importance-weighted estimate of log p(x) of each example, (N,), in nats.

        $\log \frac{1}{K}\sum_k w_k$ (Burda et al. 2016, eq. 8). Minus the mean over the test set is `test/nll`.

        Args:
            x: the examples.
            samples: the draws K of the latents per example, 100 by default.
            chunk: the draws held in memory at a time.
        """
        model = self.having("log_likelihoods")
        number = evaluation.NLL_SAMPLES if samples is None else samples
        for name, value in {"samples": number, "chunk": chunk}.items():
            if value < 1:
                raise UserError(f"{name}={value}: give at least 1")
        return _joined(evaluation.log_likelihoods(model, self._batches(x), number, chunk))

    def figure(self, name: str, **options: Any) -> Figure | None:
        """Draw a figure by its name, such as "latents", from the test set.

        Args:
            name: a figure of the run's config or of `latentlab.figures`.
            options: the options of that function.

        Returns:
            A Matplotlib figure, which a notebook shows, or None if this model has nothing to draw.

        Raises:
            UserError: if there is no such figure, or this model cannot have it.
        """
        draw = self._drawing(name)
        check_figure(name, draw, self.model)
        check_needs(name, self.model)
        return draw(self.model, examples_for(draw, self.data), **options)

    def having(self, what: str) -> GenerativeModel:
        """Return the model, which must have some of these arrays.

        Raises:
            UserError: with the reason if it does not.
        """
        if not isinstance(self.model, GenerativeModel):
            raise UserError(f"{what}: {type(self.model).__name__} is no model of images and has none")
        if missing := MISSING.get(what, lambda model: "")(self.model):
            raise UserError(f"{what}: {type(self.model).__name__} {missing}")
        return self.model

    def _drawing(self, name: str) -> Callable[..., Figure | None]:
        own = {
            key: node for key, node in self.config["callbacks"].get("figures", {}).items() if _is_call(node)
        }
        if name in own:
            found: Callable[..., Figure | None] = build_saved(
                own[name], f"callbacks.figures.{name}", self._saved.trusted
            )
            return found
        if name not in figures.DRAWN:
            known = list(dict.fromkeys((*own, *figures.DRAWN)))
            raise UserError(
                f"{name!r} is no figure{did_you_mean(name, known)} (there are {', '.join(known)})"
            )
        return figures.DRAWN[name]

    def _batches(self, x: Examples) -> Iterable[Batch]:
        if isinstance(x, str):
            return self.data.whole_set(x)  # type: ignore[arg-type]  # it refuses other names
        return [_batch(x, self.having("images"))]

    def _per_example(self, x: Examples, draw: Callable[[Any], Tensor]) -> Array:
        return _joined(evaluation.scored(self.model, self._batches(x), draw))


def _device(name: str) -> torch.device:
    chosen = "cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = re.sub("^Expected one of .*", "an unknown kind", str(error).partition("\n")[0])
        raise UserError(f"device={name}: torch has no such device here ({reason}): use 'cpu'") from error
    return torch.device(chosen)


def _joined(parts: Iterable[Tensor]) -> Array:
    joined: Array = torch.cat([part.detach().cpu() for part in parts]).numpy()
    return joined


def _is(x: Examples, split: str) -> bool:
    return isinstance(x, str) and x == split


def _generated(model: GenerativeModel, n: int, seed: int, mean: bool) -> Iterator[Tensor]:
    for index, start in enumerate(range(0, n, SAMPLES)):
        # z is drawn first, so that samples and means share it.
        state = seeded(seed, index).initial_seed()
        with torch.inference_mode(), reproducible(state, device_of(model)):
            drawn = model.generate(min(SAMPLES, n - start), mean=mean)
        yield drawn


def _batch(x: Any, model: GenerativeModel) -> Batch:
    given, labels = x if isinstance(x, tuple) else (x, None)
    images = torch.as_tensor(np.asarray(given) if not isinstance(given, Tensor) else given)
    if images.ndim == len(model.x_shape) + 1 and not images.is_floating_point():
        raise UserError(
            f"x has the type {images.dtype}: give what the model sees, numbers from 0 to 1 as in run.images()"
        )
    if tuple(images.shape[1:]) != model.x_shape or not len(images):
        raise UserError(
            f"x has the shape {[*images.shape]}: this model takes [N, {str([*model.x_shape])[1:]}"
        )
    if model.labelled and labels is None:
        raise UserError(f"{type(model).__name__} observes labels: give (x, y)")
    y = torch.full((len(images),), -1) if labels is None else torch.as_tensor(labels).long()
    return Batch(images.float(), y)


def _is_call(node: Any) -> bool:
    return isinstance(node, Mapping) and bool(node.get("_target_"))
