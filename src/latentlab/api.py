"""latentlab from Python: compose, train and evaluate as the commands do, and load a trained model."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from latentlab import evaluation, figures
from latentlab.batch import Batch
from latentlab.cli import evaluating, experiment
from latentlab.cli.build import trusted
from latentlab.cli.calls import composed, process_restored
from latentlab.cli.evaluate import evaluate as run_evaluation
from latentlab.cli.overrides import quoted
from latentlab.cli.script import conf_folder
from latentlab.cli.train import fit
from latentlab.data.loader import seeded
from latentlab.data.module import DataModule
from latentlab.errors import UserError, did_you_mean
from latentlab.figures.drawing import device_of
from latentlab.models.base import GenerativeModel
from latentlab.processes import devices
from latentlab.run.checkpoints import BUILT, load_state
from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import read_curve, read_rows
from latentlab.run.results import read_results
from latentlab.run.trust import Trusted

Array = NDArray[Any]
# The examples that are generated at a time.
SAMPLES = 500
# A split of the data by its name, or images (N, C, H, W) as the model sees them, with labels (N,) if it observes them.
Examples = str | Array | Tensor | tuple[Array | Tensor, Array | Tensor]


class Trained:
    """A trained run: its model in evaluation mode, its data, its results.

    Arrays are NumPy arrays on the CPU. All draws are seeded, so that a call gives the same numbers every time. The test
    bound and the likelihood are those that `evaluate.py` reports.

    Args:
        saved: the checkpoint with its config.
        device: the device of the model, "auto" for a GPU if there is one.
        root: the folder of data sets, or None for the same as in training.

    Attributes:
        checkpoint: the checkpoint of the model.
        path: the run directory.
        model: the model. Its parameters need no gradients.
        config: the config of the run.
    """

    def __init__(self, saved: evaluating.Saved, device: str = "auto", root: str | None = None) -> None:
        evaluating.quieten_lightning()
        self.checkpoint = saved.checkpoint
        self.path = RunDirectory.of_checkpoint(saved.checkpoint).path
        self.config: Mapping[str, Any] = saved.config
        self._saved, self._root = saved, root
        with torch.random.fork_rng([]):  # new weights are drawn before the trained ones replace them
            module = evaluating.rebuild_module(saved)
        load_state(module, saved.state, str(saved.checkpoint))
        module.to(_device(device)).eval().requires_grad_(False)
        self.model: Any = module.model

    def __repr__(self) -> str:
        names = self.config["names"]
        return f"Trained({type(self.model).__name__} on {names['data']}, {str(self.path)!r})"

    @cached_property
    def data(self) -> DataModule:
        """The data of the run, read at first use."""
        data = evaluating.rebuild_data(self._saved, self._root)
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
        """Return a draw z ~ q(z|x) for each example, or the mean of q(z|x), flat, (N, D)."""
        model = self._generative("latents")
        return self._per_example(x, model.posterior_mean if mean else model.encode)

    def reconstructions(self, x: Examples = "test") -> Array:
        """Return the mean of p(x|z) with z ~ q(z|x) for each example, (N, C, H, W)."""
        return self._per_example(x, self._generative("reconstructions").reconstruct)

    def samples(self, n: int = 64, seed: int = 0, mean: bool = False) -> Array:
        """Return n samples x ~ p(x), or the means of p(x|z) for the same z under the same seed, (n, C, H, W)."""
        model = self._generative("samples")
        if n < 1:
            raise UserError(f"n={n}: give at least 1")
        return _joined(_generated(model, n, seed, mean))

    def elbos(self, x: Examples = "test", samples: int = 1) -> Array:
        """Return the ELBO of each example, (N,), in nats. The mean over the test set is `test/elbo`."""
        return self.terms(x, samples)[self._bounded("elbos").bound]

    def terms(self, x: Examples = "test", samples: int = 1) -> dict[str, Array]:
        """Return the bound and its parts for each example, by name, each (N,), in nats.

        Args:
            x: the examples.
            samples: the draws of the latents per example.
        """
        model = self._generative("bound")
        rows = list(evaluation.terms(model, self._observations(x), samples, test=_is(x, "test")))
        return {name: _joined(row[name] for row in rows) for name in rows[0]}

    def log_likelihoods(self, x: Examples = "test", samples: int | None = None, chunk: int = 50) -> Array:
        r"""Return the importance-weighted estimate of log p(x) of each example, (N,), in nats.

        $\log \frac{1}{K}\sum_k w_k$ (Burda et al. 2016, eq. 8). Minus the mean over the test set is `test/nll`.

        Args:
            x: the examples.
            samples: the draws K of the latents per example, 100 by default.
            chunk: the draws held in memory at a time.
        """
        model = self._bounded("log_likelihoods")
        number = evaluation.choose_nll_samples(model, samples)
        if number < 1:
            raise UserError(f"log_likelihoods: {type(model).__name__} has no importance weights: use elbos")
        return _joined(evaluation.log_likelihoods(model, self._observations(x), number, chunk))

    def figure(self, name: str, **options: Any) -> Figure | None:
        """Draw a figure of `latentlab.figures` by its name, such as "latents", from the test set.

        Returns:
            A Matplotlib figure, which a notebook shows, or None if this model has nothing to draw.
        """
        draw = _drawing(name, self._saved)
        return draw(self.model, self.data.whole_test_set(), **options)

    def _generative(self, what: str) -> GenerativeModel:
        if not isinstance(self.model, GenerativeModel):
            raise UserError(f"{what}: {type(self.model).__name__} is no model of images and has none")
        return self.model

    def _bounded(self, what: str) -> GenerativeModel:
        model = self._generative(what)
        if not model.bounded:
            raise UserError(f"{what}: {type(model).__name__} has no bound on log p(x)")
        return model

    def _batches(self, x: Examples) -> Iterable[Batch]:
        if isinstance(x, str):
            return self.data.whole_set(x)  # type: ignore[arg-type]  # it refuses other names
        return [_batch(x, self._generative("images"))]

    def _observations(self, x: Examples) -> Iterator[Any]:
        return evaluation.observations(self._generative("images"), self._batches(x))

    def _per_example(self, x: Examples, draw: Callable[[Any], Tensor]) -> Array:
        return _joined(evaluation.seeded(self._observations(x), draw))


def load(
    run: str | Path, trust: str | Iterable[str] = (), device: str = "auto", data_root: str | None = None
) -> Trained:
    """Return the trained model of a run, ready to use.

    Loading a run of somebody else executes nothing of it. It may use the classes that latentlab's own `conf/` names.

    Args:
        run: a run directory, whose best checkpoint is taken, or a checkpoint.
        trust: modules of your own whose classes the run's config may name.
        device: the device of the model, "auto" for a GPU if there is one.
        data_root: the folder of data sets, if it has moved since the training.

    Raises:
        UserError: if there is no run that can be read and trusted.
    """
    modules = [trust] if isinstance(trust, str) else trust
    return _load(run, Trusted.of([conf_folder()], modules), device, data_root)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the checked config of `python train.py OVERRIDES`, with all values resolved.

    Raises:
        UserError: for the first mistake, in the words of the command line.
    """
    with composed("train", overrides) as (cfg, job), process_restored():
        chosen = experiment.compose(cfg, job)
        chosen.build("module").check(chosen.build("data"))  # the parts fit together
        return OmegaConf.create(chosen.config)


def train(
    overrides: Sequence[str] = (), directory: str | Path | None = None, device: str = "auto"
) -> Trained:
    """Train in this process as `python train.py OVERRIDES` does: the same numbers and the same files.

    Ctrl-C, or the button of a notebook that interrupts, leaves a run that `train(["resume=RUN"])` resumes.

    Args:
        overrides: the settings, such as ["model=vae", "trainer.max_epochs=5"].
        directory: the run directory, or None for the default of the command.
        device: the device of the returned model, "auto" for a GPU if there is one.

    Returns:
        The trained run, as `load` returns it.

    Raises:
        UserError: for a mistake in the settings, a directory that holds a run already, or a training that diverged.
    """
    place = [] if directory is None else [quoted("hydra.run.dir", Path(directory).expanduser().absolute())]
    with composed("train", [*overrides, *place]) as (cfg, job):
        chosen, run = experiment.compose(cfg, job), RunDirectory(Path(job.runtime.output_dir))
        _check_call(chosen.config, run)
        with _resumable(run), process_restored():
            fit(chosen, cfg, job)
        return _load(run.path, _trusted_here(chosen), device)


def evaluate(run: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate a run as `python evaluate.py run=RUN OVERRIDES` does, and return the contents of evaluation.json.

    Raises:
        UserError: for a mistake in the settings, or a run that cannot be read and trusted.
    """
    place = quoted("run", Path(run).expanduser().absolute())
    with composed("evaluate", [place, *overrides]) as (cfg, _), process_restored():
        return run_evaluation(cfg)[0]


def _check_call(config: Mapping[str, Any], run: RunDirectory) -> None:
    if devices.total_devices(config["trainer"]) > 1:
        raise UserError(
            f"trainer.devices={config['trainer'].get('devices')}: each device needs a process: start this training "
            "on the command line, with `python train.py`"
        )
    if config["ckpt_path"] is None and run.last_checkpoint.exists():
        path = str(run.path)
        raise UserError(
            f"{path} already holds a run: load it with latentlab.load({path!r}), resume it with "
            f"latentlab.train([{f'resume={path}'!r}]), or choose another directory"
        )


@contextmanager
def _resumable(run: RunDirectory) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if run.resumable_checkpoint():
            print(f"resume: latentlab.train([{f'resume={run.path}'!r}])", file=sys.stderr)
        raise


def _trusted_here(chosen: experiment.Experiment) -> Trusted:
    """Return the targets of a run that this call has trained, with those that the caller has named."""
    if chosen.trusted is not None:
        return chosen.trusted
    known = trusted()
    own = {target for part in BUILT for target in known.unlisted(chosen.config[part], part)}
    return replace(known, targets={**known.targets, **dict.fromkeys(own, frozenset())})


def _load(run: str | Path, trusted: Trusted, device: str = "auto", root: str | None = None) -> Trained:
    return Trained(evaluating.read_saved(_checkpoints(run), "run", trusted), device, root)


def _checkpoints(run: str | Path) -> list[Path]:
    return evaluating.checkpoints(Path(run).expanduser())


def _device(name: str) -> torch.device:
    chosen = "cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
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
        with torch.inference_mode(), evaluation.reproducible(state, device_of(model)):
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


def _drawing(name: str, saved: evaluating.Saved) -> Callable[..., Figure | None]:
    known = [each for each in figures.__all__ if each[0].islower() and each != "save"]
    if name not in known:
        raise UserError(f"{name!r} is no figure{did_you_mean(name, known)} (there are {', '.join(known)})")
    draw: Callable[..., Figure | None] = getattr(figures, name)
    return draw
