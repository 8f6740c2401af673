"""The base of all Lightning modules, and exact scores over a data set."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from latentlab.batch import BLOCK, Batch
from latentlab.classical.base import Source
from latentlab.data.images import ImageData
from latentlab.data.module import DataModule
from latentlab.errors import UserError
from latentlab.evaluation import EVALUATION_SEED, Draws, Passes, Tally, repeated
from latentlab.lit.rehearsal import Rehearsal
from latentlab.models.base import GenerativeModel


class LitModule(pl.LightningModule, ABC):
    """A model with the numbers that its run reports.

    Args:
        model: the model.
        eval_samples: the number of draws of the latents per example in evaluation.

    Attributes:
        results: the numbers that the run reports, in float64, by their names in summary.json.
    """

    def __init__(self, model: nn.Module, eval_samples: PositiveInt = 1) -> None:
        super().__init__()
        self.model = model
        self.eval_samples = eval_samples
        self.results: dict[str, float] = {}

    @property
    def monitor(self) -> str:
        """The metric that chooses the best checkpoint by default, the larger the better."""
        return "val/elbo"

    @property
    def chosen_by(self) -> str:
        """The metric that chooses the best checkpoint: the one that its callback names, or `monitor`."""
        named = (getattr(callback, "monitor", None) for callback in self.trainer.checkpoint_callbacks)
        return next((name for name in named if name), self.monitor)

    @classmethod
    def of(cls, module: pl.LightningModule) -> Self:
        """Return a module that must be of this class, such as `trainer.lightning_module`, with its type."""
        assert isinstance(module, cls)
        return module

    @property
    def data(self) -> DataModule:
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]  # set, but not declared
        return data

    def is_final(self, step: int) -> bool:
        """Return True if an optimiser step belongs to the last phase of training, see `Objective.final`."""
        return True

    @property
    def in_final_phase(self) -> bool:
        return self.is_final(max(self.trainer.global_step - 1, 0))

    @property
    def log_every_n_steps(self) -> int:
        """The trainer's setting, where 0 means never."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set, but not declared
        return every

    @abstractmethod
    def check(self, data: DataModule) -> None:
        """Refuse data that do not fit the model. The data are not read.

        Raises:
            UserError: with the reason and the options that work.
        """

    def check_training(self, new: bool) -> None:
        """Refuse settings that do not fit, once the data are read and before the run writes anything.

        Args:
            new: True for a run that does not resume.

        Raises:
            UserError: with the setting.
        """

    @abstractmethod
    def rehearse(self) -> Rehearsal:
        """Take a step on a few examples that changes neither the model nor the random state.

        Raises:
            UserError: if the model cannot take a step on the data.
        """


class ScoringModule(LitModule, ABC):
    """A model scored on held-out data: `val/*` and `test/*` are exact means of its terms over the whole set.

    Scores are computed in the precision of the weights, float32 in training with mixed precision.
    """

    model: GenerativeModel

    def __init__(self, model: GenerativeModel, eval_samples: PositiveInt = 1) -> None:
        super().__init__(model, eval_samples)
        self.tally = Tally()
        self.passes = Passes(eval_samples)
        self.seeds: Iterator[int] = iter(())

    @property
    def monitor(self) -> str:
        return f"val/{self.model.bound}"

    def check(self, data: DataModule) -> None:
        if isinstance(data.protocol, Source):
            raise UserError(
                f"{type(self.model).__name__} is a model of images, not of {data.protocol.name} observations: "
                "choose images, such as data=binarised_mnist"
            )
        self.model.check(data.protocol)
        if isinstance(data, ImageData) and tuple(data.shape) != self.model.x_shape:
            raise UserError(
                f"model.x_shape={[*self.model.x_shape]}: the images of {data.name} have the shape {[*data.shape]}: "
                "leave model.x_shape out, and a new run takes it from the data"
            )

    def scored_metrics(self, model: GenerativeModel, x: Any) -> set[str]:
        """Return the names of the validation metrics of a model, from a few observations x."""
        with torch.no_grad(), torch.random.fork_rng([]):
            return {f"val/{name}" for name in (*model.terms(x), f"{model.bound}_stderr", "num_examples")}

    @property
    def most_draws(self) -> int:
        """The draws of the latents per example that an evaluation makes at a time."""
        return self.eval_samples

    def on_validation_epoch_start(self) -> None:
        self.tally = Tally()
        self.passes = Passes(self.most_draws)
        self.seeds = count(EVALUATION_SEED + self.global_rank * BLOCK, self.trainer.world_size * BLOCK)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with self._full_precision():
            self._score(batch, lambda x: Draws(self.validation_terms(x, samples=self.eval_samples)))

    def validation_terms(self, x: Any, samples: int) -> dict[str, Tensor]:
        """Return the terms that are averaged over the validation set, each (B,)."""
        return self.model.terms(x, samples=samples)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        with self._full_precision():
            self._score(batch, self._tested)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self._log_means("val")

    def on_test_epoch_end(self) -> None:
        self._log_means(self.data.tested)

    def _full_precision(self) -> torch.autocast:
        # Mixed precision is for training. A score in half precision would not be that of evaluate.py.
        return torch.autocast(self.device.type, enabled=False)

    def _tested(self, x: Any) -> Draws:
        return repeated(self.model.test_terms, x, self.eval_samples, self.model.bound)

    def _score(self, batch: Batch, terms: Callable[[Any], Draws]) -> None:
        # Each block has a seed that depends on its position in the set alone. So the draws depend neither on the
        # batch size nor on the number of devices.
        def score(part: Batch) -> Draws:
            return terms(self.model.observe(part))

        for found in self.passes(score, batch.to(self.device), self.seeds):
            self.tally.add(*found)

    def _log_means(self, split: str) -> None:
        means = self.tally.means(self._expected(split), self.model.bound, self.add_ranks)
        further = {} if self.trainer.testing else self.validated(means)
        named = {f"{split}/{name}": value for name, value in (means | further).items()}
        self.results.update(named)
        # The values are the same on all ranks already.
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in named.items()})

    def validated(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return further validation metrics, computed from the means of the terms."""
        return {}

    def _expected(self, split: str) -> int | None:
        # A validation may leave out batches, and a dry run does. Then `num_examples` says how many were scored.
        limit = 1.0 if self.trainer.testing else self.trainer.limit_val_batches
        whole = isinstance(limit, float) and limit == 1 and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        return self.data.num_examples[split] if whole else None

    def add_ranks(self, sums: Tensor) -> Tensor:
        """Return sums over all ranks."""
        return self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum").cpu()
