"""The variance of the inference network's gradient, under the trained objective and under others."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from math import sqrt
from typing import Annotated, Any, cast

import torch
from pydantic import Field, PositiveInt
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from latentlab.errors import UserError
from latentlab.lit import GradientModule
from latentlab.objectives import Objective
from latentlab.trace import Traced

log = logging.getLogger(__name__)

TINY = 1e-300


@dataclass(frozen=True)
class GradientStatistics:
    r"""The statistics of a gradient estimate g.

    Attributes:
        variance: $\mathrm{tr}\,\mathrm{Cov}(g)$, the variances summed over parameters.
        norm: $E\|g\|$.
        snr: the signal-to-noise ratio $\|E g\| / \sqrt{\mathrm{tr}\,\mathrm{Cov}(g)}$.
    """

    variance: float
    norm: float
    snr: float


class GradientVariance(Callback):
    r"""Measures the variance that draws of the latents cause in the gradient of the inference network.

    It measures every n epochs and after the last, always on the first training batch of the run. It logs
    `train/gradient_variance`, `train/gradient_norm` and `train/gradient_snr` for the trained objective. For the
    objective NAME of `compare`, the keys end in `_NAME`. A run has the same results with and without it.

    Args:
        every_n_epochs: the number of training epochs between two measurements.
        repeats: the number R of gradients per objective. The variance has a relative error of about $\sqrt{2 / R}$.
        compare: other objectives by name.

    Raises:
        UserError: if the model has no trained inference network, or one of the objectives is not defined for it.
    """

    def __init__(
        self,
        every_n_epochs: PositiveInt = 10,
        repeats: Annotated[int, Field(ge=2)] = 100,
        compare: Mapping[str, Objective] | None = None,
    ) -> None:
        self.every_n_epochs = every_n_epochs
        self.repeats = repeats
        self.compare = dict(compare or {})
        self._batch: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        model = GradientModule.of(pl_module).model
        if not isinstance(model, Traced) or not list(model.inference_parameters()):
            raise UserError(
                f"callbacks.gradient_variance needs the gradient of q(z|x), and {type(model).__name__} trains no "
                "inference network: leave it out with ~callbacks.gradient_variance"
            )
        for name, objective in self.compare.items():
            try:
                objective.check(model)
            except UserError as error:
                entry = f"callbacks.gradient_variance.compare.{name}"
                raise UserError(f"{entry}: {error}; or leave it out with ~{entry}") from error

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero and (epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs):
            measured = self.measure(trainer, GradientModule.of(pl_module))
            for name, statistics in measured.items():
                values = {f"train/gradient_{key}{name}": value for key, value in asdict(statistics).items()}
                pl_module.log_dict(values, rank_zero_only=True)
            log.info("gradient variance %s", _described(measured))

    def measure(self, trainer: Trainer, module: GradientModule) -> dict[str, GradientStatistics]:
        """Return the statistics under the trained objective, named "", and under the others, named "_NAME"."""
        others = {f"_{name}": objective for name, objective in self.compare.items()}
        x = module.model.observe(self._first_batch(trainer, module))
        parameters = [p for p in cast(Traced, module.model).inference_parameters() if p.requires_grad]
        measured = {}
        for name, objective in {"": module.objective, **others}.items():
            bound = partial(objective.at(module.clock), module.model, x)
            with fixed_draws(module.model), trainer.precision_plugin.forward_context():
                measured[name] = gradient_statistics(bound, parameters, self.repeats)
        return measured

    def _first_batch(self, trainer: Trainer, module: GradientModule) -> Any:
        if self._batch is None:
            self._batch = trainer.strategy.batch_to_device(next(iter(module.data.training_set())))
        return self._batch


def gradient_statistics(
    bound: Callable[[], Tensor], parameters: Sequence[Tensor], repeats: int
) -> GradientStatistics:
    """Return the statistics of the gradient of a bound's mean, from independent evaluations of the bound (B,)."""
    mean = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=parameters[0].device)
    squares, norm = 0.0, 0.0
    for n in range(1, repeats + 1):
        gradients = torch.autograd.grad(bound().mean(), parameters, materialize_grads=True)
        gradient = torch.cat([part.flatten() for part in gradients]).double()
        # Welford's update keeps one gradient in memory and avoids cancellation.
        before = gradient - mean
        mean += before / n
        squares += torch.dot(before, gradient - mean).item()
        norm += gradient.norm().item() / repeats
    variance = squares / (repeats - 1)
    # The squared norm of the mean is biased by the mean's own variance.
    signal = max(mean.square().sum().item() - variance / repeats, 0.0)
    return GradientStatistics(variance, norm, sqrt(signal / max(variance, TINY)))


@contextmanager
def fixed_draws(model: nn.Module) -> Iterator[None]:
    """Use a fixed seed in the context, and restore random states and buffers after it."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with isolate_rng():
        from latentlab.figures.drawing import SEED  # late, as Matplotlib is slow to import

        torch.manual_seed(SEED)
        yield
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])


def _described(measured: Mapping[str, GradientStatistics]) -> str:
    trained = measured[""].variance
    others = [
        f"{name[1:]} {statistics.variance / max(trained, TINY):.3g} times that"
        for name, statistics in measured.items()
        if name
    ]
    return ", ".join([f"{trained:.3g}", *others])
