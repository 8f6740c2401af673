"""All estimators of a bound, side by side: value objects that are called with a model and x, and return (B,)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import inf, log
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from latentlab.errors import UserError
from latentlab.gradients import frozen, leave_one_out, with_value
from latentlab.trace import Scored, Trace, Traced


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


class ELBO(TraceObjective):
    r"""The evidence lower bound by Monte Carlo, $\frac{1}{K}\sum_k \log w_k$, $z_k \sim q(z|x)$.

    Kingma and Welling 2014, eq. 6; gradients by reparametrisation.
    """

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return model(x, samples=self.samples).log_w.mean(0)


class AnalyticELBO(TraceObjective):
    r"""The evidence lower bound with every KL that has a closed form taken exactly.

    $\frac{1}{K}\sum_k \log p(x|z_k) - \sum_l KL_l$ (Kingma and Welling 2014, eq. 7), each layer's KL as in
    `trace.Layer.kl`.
    """

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return model(x, samples=self.samples).terms()["elbo"]


class STL(TraceObjective):
    r"""The evidence lower bound with the path derivative, "sticking the landing".

    $\nabla_\phi = E_\epsilon[\nabla_z \log w \, \nabla_\phi z]$ (Roeder et al. 2017, eq. 8): log q(z|x) is scored
    by the frozen model, so that only the path through z is left, and the gradient vanishes, draw by draw, where
    q(z|x) is the exact posterior. What it leaves out, $E_q[\nabla_\phi \log q]$, is zero.
    """

    rescores = True
    exact_path = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        live = model(x, samples=self.samples)
        cold = frozen(model)(x, samples=self.samples, zs=live.z)
        return (live.log_px_z + live.log_pz - cold.log_qz_x).mean(0)


@dataclass(frozen=True)
class BetaELBO(TraceObjective):
    r"""The ELBO, with the gradient of $E_q[\log p(x|z)] - \beta \sum_l \max(\lambda, \overline{KL}_l)$.

    Higgins et al. 2017, eq. 4. The value is the unweighted ELBO, whatever the weight. beta rises linearly from 0 in a
    warm-up (Sønderby et al. 2016, section 2.4), once or in cycles (Fu et al. 2019, eq. 6). Free bits $\lambda$ (Kingma
    et al. 2016, eq. 15) bound the KL of a layer, averaged over the batch of a device, from below: beneath it the layer
    is not pulled to its prior.

    Called as it is, the weight is `beta`; `at` gives the objective with the weight of a time.

    Attributes:
        samples: the number K of draws per example.
        beta: the weight on the KL after the warm-up.
        warmup_epochs: the length of the warm-up in epochs, to which `warmup_steps` are added.
        warmup_steps: the length of the warm-up in steps of the optimiser.
        cycle_epochs: the number of epochs after which the warm-up starts again, never if None.
        free_bits: lambda, in nats per layer; 0 for none.
    """

    beta: NonNegativeFloat = 1.0
    warmup_epochs: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 0
    cycle_epochs: PositiveFloat | None = None
    free_bits: NonNegativeFloat = 0.0

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        trace = model(x, samples=self.samples)
        terms = trace.terms()
        kls = [terms[f"kl_{level}"] for level in range(1, len(trace.layers) + 1)]  # L times (B,)
        charged = torch.stack([self._floored(kl) for kl in kls]).sum(0)
        return with_value(terms["elbo"], terms["reconstruction"] - self.beta * charged)

    def at(self, clock: Clock) -> "BetaELBO":
        """The objective with the weight of a time."""
        return replace(self, beta=self.beta * self._warmth(clock))

    def _warmth(self, clock: Clock) -> float:
        warmup = self.warmup_steps + self.warmup_epochs * clock.steps_per_epoch
        cycle = inf if self.cycle_epochs is None else self.cycle_epochs * clock.steps_per_epoch
        return min(1.0, clock.step % cycle / warmup) if warmup else 1.0

    def _floored(self, kl: Tensor) -> Tensor:
        # Without free bits no floor at 0: the estimate of a KL may be negative, and is unbiased so.
        return kl.mean().clamp(min=self.free_bits).expand_as(kl) if self.free_bits else kl


def log_mean_exp(log_w: Tensor) -> Tensor:
    r"""The importance-weighted bound of log weights (K, ...), $\log \frac{1}{K}\sum_k w_k$, (...)."""
    return log_w.logsumexp(0) - log(len(log_w))


class IWAE(TraceObjective):
    r"""The importance-weighted bound $\log \frac{1}{K}\sum_k w_k$, $z_k \sim q(z|x)$; one sample gives the ELBO.

    Burda et al. 2016, eq. 8; gradients by reparametrisation (eq. 13).
    """

    bound = "iwae"
    exact_path = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return log_mean_exp(model(x, samples=self.samples).log_w)


class DReG(TraceObjective):
    r"""The importance-weighted bound with the doubly reparametrised gradient; one sample gives `STL`.

    With normalised weights $\tilde w_k$ the gradient of the inference network is
    $\sum_k \tilde w_k^2 \nabla_z \log w_k \nabla_\phi z_k$ (Tucker et al. 2018, eq. 8), that of the model
    $\sum_k \tilde w_k \nabla_\theta \log p(x, z_k)$ at fixed z. Its signal does not fade as K grows.
    """

    bound = "iwae"
    exact_path = True
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        live = model(x, samples=self.samples)
        cold = frozen(model)(x, samples=self.samples, zs=live.z)
        weight = live.log_w.detach().softmax(0)  # (K, B)
        # The paths through z of the live and the frozen density cancel: what is left is log p(x, z) at fixed z.
        model_term = live.log_px_z + live.log_pz - cold.log_px_z - cold.log_pz
        surrogate = (weight * model_term + weight**2 * cold.log_w).sum(0)
        return with_value(log_mean_exp(live.log_w), surrogate)


def scored_at_fixed_draws(model: Traced, x: Any, samples: int) -> Trace:
    """The trace of exact draws of the latents, which carry no path."""
    with torch.no_grad():
        # Frozen, so that autocast keeps no half-precision copies of live weights that were made without gradients
        # (releases of torch before the one tested here did, and used them below).
        zs = frozen(model)(x, samples=samples).z
    return model(x, samples=samples, zs=zs)


@dataclass(frozen=True)
class ScoreFunction(TraceObjective):
    r"""The evidence lower bound with the score-function gradient (REINFORCE) and a leave-one-out baseline.

    $\frac{1}{K}\sum_k (\log w_k - \frac{1}{K-1}\sum_{j \neq k} \log w_j) \nabla_\phi \log q(z_k|x)
    + \nabla_\theta \log p(x, z_k)$ (Ranganath et al. 2014, eq. 3; Kool et al. 2019, eq. 8).

    Attributes:
        samples: the number K of draws per example, at least 2.
    """

    samples: Annotated[int, Field(ge=2)] = 2
    pathwise = False
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        trace = scored_at_fixed_draws(model, x, self.samples)
        log_w = trace.log_w.detach()
        signal = log_w - leave_one_out(log_w)  # (K, B)
        surrogate = signal * trace.log_qz_x + trace.log_px_z + trace.log_pz
        return with_value(log_w, surrogate).mean(0)


@dataclass(frozen=True)
class VIMCO(TraceObjective):
    r"""The importance-weighted bound with the score-function gradient of Mnih and Rezende 2016.

    $\sum_k (\hat L - \hat L_{-k}) \nabla_\phi \log q(z_k|x) + \nabla \hat L|_z$ (eq. 8), where $\hat L_{-k}$ is the
    bound $\hat L$ with $w_k$ replaced by the geometric mean of the others (eq. 7 and 10). Memory grows with $K^2 B$.

    Attributes:
        samples: the number K of draws per example, at least 2.
    """

    samples: Annotated[int, Field(ge=2)] = 2
    bound = "iwae"
    pathwise = False
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        trace = scored_at_fixed_draws(model, x, self.samples)
        value = log_mean_exp(trace.log_w)
        signal = (value - bounds_without_each(trace.log_w)).detach()  # (K, B)
        return with_value(value, value + (signal * trace.log_qz_x).sum(0))


def bounds_without_each(log_w: Tensor) -> Tensor:
    r"""The bounds $\hat L_{-k}$: with $\log w_k$ replaced by the mean of the others, for log weights and all (K, B)."""
    own = torch.eye(len(log_w), dtype=torch.bool, device=log_w.device)[..., None]  # (K, K, 1)
    return log_mean_exp(torch.where(own, leave_one_out(log_w), log_w[:, None]))


class VLB(Objective):
    r"""The variational lower bound of a diffusion, $E[\log p(x|z_0)] - KL(q(z_1|x)\,\|\,p(z_1)) - L_T$.

    Kingma et al. 2021, eq. 11, at one random time for each draw; `model.steps` is T. For T to infinity the bound does
    not depend on the schedule between its end points, and one that learns is given the gradient of its variance:
    see `Diffusion.loss_at`.
    """

    def __call__(self, model: Scored, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return model.terms(x, samples=self.samples)["elbo"]

    def parts(self, model: Scored, x: Any) -> dict[str, Tensor]:
        """The bound with its terms, each (B,)."""
        return model.terms(x, samples=self.samples)

    def check(self, model: nn.Module) -> None:
        """Refuse a model without a diffusion."""
        if isinstance(model, Traced) or not (isinstance(model, Scored) and model.bounded):
            raise UserError(
                f"VLB is the bound of a diffusion, and {type(model).__name__} has none: leave objective to what the "
                "model brings along (objective=analytic_elbo for a VAE), or choose model=vdm"
            )


class Reconstruction(Objective):
    """The score of the reconstruction, log p(x|z(x)), which is no bound on log p(x); for `model=autoencoder`."""

    bound = "reconstruction"

    def __call__(self, model: Scored, x: Any) -> Tensor:
        """The score of each example, (B,)."""
        return model.terms(x, samples=self.samples)["reconstruction"]

    def check(self, model: nn.Module) -> None:
        """Refuse a model that has a bound, of which this would leave out the KL."""
        if not isinstance(model, Scored) or model.bounded:
            raise UserError(
                f"Reconstruction is no bound, and {type(model).__name__} has one: leave objective to what the model "
                "brings along (objective=beta_elbo objective.beta=0 leaves the KL of a VAE out of the gradient), "
                "or choose model=autoencoder"
            )
