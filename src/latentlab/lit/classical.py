"""The Lightning modules of classical inference: each training step is one iteration, without gradients."""

from copy import deepcopy
from typing import Any, Self

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from latentlab.batch import Batch
from latentlab.classical.base import Inference, Source
from latentlab.classical.ppca import PPCA
from latentlab.data.module import DataModule
from latentlab.errors import Diverged, UserError
from latentlab.lit.base import LitModule, ScoringModule
from latentlab.lit.rehearsal import Rehearsal


class Iteration(Optimizer):
    """One iteration of a classical inference as an optimiser, whose steps Lightning counts.

    Args:
        model: the inference, which changes its own state.
    """

    def __init__(self, model: Inference) -> None:
        super().__init__(list(model.buffers()), {})
        self.iterate = model.iterate
        self.monitors: dict[str, Tensor] = {}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.monitors = self.iterate()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore nothing: the state is the model's."""


class ClassicalModule(LitModule):
    """A classical inference that brings its own data, which have no test set.

    Each step is one iteration on the whole training set, until convergence. The state stays in float64 on the CPU,
    whatever the trainer's device and precision. The monitors of the inference are logged as `train/*`. The results
    are its estimates, the exact values where they are known, and the errors where the truth is known.
    """

    model: Inference
    automatic_optimization = False

    @property
    def monitor(self) -> str:
        return "train/elbo"

    def check(self, data: DataModule) -> None:
        self.model.check(data.protocol)

    def setup(self, stage: str) -> None:
        """Refuse several devices before Lightning wraps the module for them."""
        if self.trainer.world_size > 1:
            raise UserError(f"{self._get_name()} iterates on one device: trainer=cpu or trainer.devices=1")

    def check_training(self, new: bool) -> None:
        self.model.read(batch.x.to(self.device) for batch in self.data.training_set())

    def rehearse(self) -> Rehearsal:
        model = deepcopy(self.model)
        with torch.no_grad(), torch.random.fork_rng([]):
            model.begin([])
            iterated = {f"train/{name}" for name in model.iterate()}
            return Rehearsal(frozenset(iterated | self._validated(model)))

    def _validated(self, model: Inference) -> set[str]:
        """The names of the validation metrics of a model after an iteration."""
        return set()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Stay on the CPU in float64."""
        return self

    def configure_optimizers(self) -> Optimizer:
        return Iteration(self.model)

    def on_train_start(self) -> None:
        self.on_test_start()
        self.trainer.should_stop = self.model.converged  # a resumed run may have converged already

    def on_test_start(self) -> None:
        self.model.begin(batch.x.to(self.device) for batch in self.data.training_set())

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        monitors = self._iterate()
        if not torch.isfinite(bound := monitors["elbo"]):
            raise Diverged(
                f"the iteration diverged: the bound is {bound.item()} at step {self.global_step}; "
                "take smaller steps"
            )
        self.trainer.should_stop = self.model.converged
        every = self.log_every_n_steps
        due = every > 0 and self.global_step % every == 0
        if due or self.trainer.should_stop or self.trainer.is_last_batch:
            self.log_dict({f"train/{name}": value for name, value in monitors.items()})

    def _iterate(self) -> dict[str, Tensor]:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer) and isinstance(optimizer.optimizer, Iteration)
        optimizer.step()
        return optimizer.optimizer.monitors

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Do nothing: the data have no test set."""

    def on_test_end(self) -> None:
        source = self.data.protocol
        truth = source.truth if isinstance(source, Source) else {}
        self.results |= {
            "train/elbo": self.model.history.values["elbo"][-1],
            "train/iterations": self.model.iterations,
            "model/parameters": self.model.num_parameters,
            **self.model.estimates(),
            **(self.model.errors(truth) if truth else {}),
        }


class ClassicalLikelihoodModule(ClassicalModule, ScoringModule):
    """A classical inference of a density of images, which is scored on held-out data too."""

    model: PPCA  # an inference and a generative model

    test_step = ScoringModule.test_step

    def _validated(self, model: PPCA) -> set[str]:  # type: ignore[override]  # the class of `model`
        return self.scored_metrics(model, self.data.training_sample(2).x)
