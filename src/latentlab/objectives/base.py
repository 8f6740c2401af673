"""What every objective is, and what those that score a trace ask of a model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from latentlab.errors import UserError
from latentlab.trace import Traced


@dataclass(frozen=True)
class Clock:
    """Where training stands: what a schedule depends on, restored with the step when a run resumes.

    Attributes:
        step: the optimiser's steps so far.
        steps_per_epoch: the optimiser's steps in an epoch.
    """

    step: int
    steps_per_epoch: int


@dataclass(frozen=True)
class Objective(ABC):
    """A bound on log p(x) estimated with `samples` draws of the latents per example.

    Attributes:
        samples: the number K of draws per example.
        bound: the name under which its value is logged.
    """

    samples: PositiveInt = 1
    bound: ClassVar[str] = "elbo"

    @abstractmethod
    def __call__(self, model: Any, x: Any) -> Tensor:
        """The bound for each of the B examples of `x`, (B,)."""

    def parts(self, model: Any, x: Any) -> dict[str, Tensor]:
        """The bound under its name, and what is logged beside it, each (B,); nothing else, as a rule."""
        return {self.bound: self(model, x)}

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Refuse a model for which the bound or its gradient is not defined.

        Raises:
            UserError: with the reason and the options that work.
        """

    def at(self, clock: Clock) -> "Objective":
        """The objective at a time of the training; itself, where there is no schedule."""
        return self


@dataclass(frozen=True)
class TraceObjective(Objective):
    """A bound made of the scores of a trace.

    Attributes:
        pathwise: whether its gradient runs through the draws of the latents, which then need a path.
        exact_path: whether that path must be the one of q itself, and not of a relaxation.
        rescores: whether it runs the model twice on the same draws, which must then be the same function twice.
    """

    pathwise: ClassVar[bool] = True
    exact_path: ClassVar[bool] = False
    rescores: ClassVar[bool] = False

    def check(self, model: nn.Module) -> None:
        """Refuse a model without a trace, without the path, or with networks that differ from pass to pass."""
        name, owner = type(self).__name__, type(model).__name__
        if not isinstance(model, Traced):
            raise UserError(
                f"{name} needs the log-densities of drawn latents, and {owner} has none: "
                "leave objective to what the model brings along (objective=vlb for a diffusion), "
                "or choose another model, such as model=vae"
            )
        if self.pathwise and not model.reparametrised:
            raise UserError(
                f"{name} differentiates through the draws of the latents, and those of {owner}'s posterior have "
                "no path: choose objective=score_function or objective=vimco, or another posterior"
            )
        if self.exact_path and model.discrete:
            raise UserError(
                f"{name} needs the density of the draws that its gradient runs through, and discrete latents are "
                "relaxed for that: choose objective=analytic_elbo, elbo or beta_elbo, which are trained on relaxed "
                "draws, or objective=score_function or vimco, which are exact"
            )
        noisy = [module for module in model.modules() if isinstance(module, (_DropoutNd, _BatchNorm))]
        if self.rescores and noisy:
            raise UserError(
                f"{name} runs the networks twice on the same draws, and {type(noisy[0]).__name__} changes from "
                "one pass to the next: leave it out of encoder and decoder, "
                "or choose objective=elbo, analytic_elbo, iwae or beta_elbo"
            )
