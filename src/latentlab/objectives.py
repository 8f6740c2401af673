"""Estimators of a bound on log p(x): value objects that are called with a model and x, and return (B,)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, log
from re import fullmatch
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from latentlab.errors import UserError
from latentlab.gradients import frozen, leave_one_out, with_value
from latentlab.likelihoods.ensemble import EnsembleLikelihood
from latentlab.trace import Scored, Trace, Traced
from latentlab.weightings import WEIGHTED, Bound, Weighting

BOUND = Bound()
PLAIN = (BOUND, None)


@dataclass(frozen=True)
class Clock:
    """The training time that warm-ups depend on.

    Attributes:
        step: the optimiser steps so far.
        steps_per_epoch: the optimiser steps in an epoch.
    """

    step: int
    steps_per_epoch: int


@dataclass(frozen=True)
class Objective(ABC):
    """An estimator that is maximised, called as `objective(model, x)`.

    Attributes:
        samples: the number K of draws of the latents per example.
        bound: the name under which the value is logged.
        separable: True if the value of an example in validation depends on no other example of its batch. Validation
            then has large batches, and else blocks of `batch.BLOCK` examples. A class of your own states it itself.
    """

    samples: PositiveInt = 1
    bound: ClassVar[str] = "elbo"
    separable: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        # Not inherited, because a subclass may couple the examples that its base scores alone.
        cls.separable = vars(cls).get("separable", cls.__module__ == __name__)

    @abstractmethod
    def __call__(self, model: Any, x: Any) -> Tensor:
        """The value for each of the B examples of x, (B,), in nats."""

    def parts(self, model: Any, x: Any) -> dict[str, Tensor]:
        """The value under the name `bound`, and all other terms to log, each (B,)."""
        return {self.bound: self(model, x)}

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Refuse a model for which the value or its gradient is not defined.

        Raises:
            UserError: with the reason and the options that work.
        """

    def at(self, clock: Clock) -> "Objective":
        """The objective at a training time."""
        return self

    @property
    def final(self) -> bool:
        """True in the last phase of training, whose validation scores choose the best checkpoint.

        Scores of an earlier phase compare with no later ones. They stop no training and lower no learning rate.
        """
        return True

    def check_length(self, epochs: int) -> None:  # noqa: B027 (objectives of one phase accept any length)
        """Refuse a training of so many epochs if it is too short.

        Raises:
            UserError: with the length that is needed.
        """

    @property
    def draws(self) -> int:
        """The number of draws of the latents per example in one pass."""
        return self.samples

    @property
    def criterion(self) -> str:
        """The name of the value in validation, which chooses the best checkpoint.

        It is the name of the model's own bound where both are the same number by definition.
        """
        return self.bound

    def validation_terms(self, model: Any, x: Any) -> dict[str, Tensor]:
        """The value as a term of x, (B,), or nothing if the model's own terms have it. Called without gradients."""
        return {} if self.criterion == model.bound else {self.criterion: self(model, x)}

    def validated(self, means: Mapping[str, float]) -> dict[str, float]:
        """The value computed from the means of the model's terms over a data set, if that is how it is defined."""
        return {}


@dataclass(frozen=True)
class TraceObjective(Objective):
    """A bound computed from the log-densities of a trace.

    Attributes:
        pathwise: True if the gradient runs through the draws of the latents.
        exact_path: True if these draws must come from q, not from a relaxation of it.
        rescores: True if the model is called twice for the same draws. Both calls must be the same function.
        redecodes: True if log p(x|z) of both calls is in the gradient.
    """

    pathwise: ClassVar[bool] = True
    exact_path: ClassVar[bool] = False
    rescores: ClassVar[bool] = False
    redecodes: ClassVar[bool] = False

    def check(self, model: nn.Module) -> None:
        name, owner = type(self).__name__, type(model).__name__
        if not isinstance(model, Traced):
            raise UserError(
                f"{name} needs the log-densities of drawn latents, and {owner} has none: use the model's default "
                "objective (objective=vlb for a diffusion), or choose another model, such as model=vae"
            )
        if self.pathwise and not model.reparametrised:
            raise UserError(
                f"{name} differentiates through the draws of the latents, and those of {owner}'s posterior have "
                "no path: choose objective=score_function, vimco, tvo or rws, or another posterior"
            )
        if self.exact_path and model.discrete:
            raise UserError(
                f"{name} needs the density of the draws that its gradient runs through, and discrete latents are "
                "relaxed there: choose objective=analytic_elbo, elbo or beta_elbo (trained on relaxed draws), or "
                "objective=score_function, vimco, tvo or rws (exact)"
            )
        noisy = [module for module in model.modules() if isinstance(module, (_DropoutNd, _BatchNorm))]
        if self.rescores and noisy:
            raise UserError(
                f"{name} runs the networks twice on the same draws, and {type(noisy[0]).__name__} changes from "
                "call to call: remove it from encoder and decoder, or choose objective=elbo, analytic_elbo, "
                "iwae or beta_elbo"
            )
        if self.redecodes and isinstance(getattr(model, "likelihood", None), EnsembleLikelihood):
            raise UserError(
                f"{name} decodes the same draws twice, and an ensemble draws a decoder for each call: set "
                "model.decoders=1, or choose objective=elbo, stl or iwae"
            )


class ELBO(TraceObjective):
    r"""The evidence lower bound by Monte Carlo, $\frac{1}{K}\sum_k \log w_k$, $z_k \sim q(z|x)$.

    Kingma and Welling 2014, eq. 6, with reparametrised gradients.
    """

    def __call__(self, model: Traced, x: Any) -> Tensor:
        return model(x, samples=self.samples).log_w.mean(0)


class AnalyticELBO(TraceObjective):
    r"""The evidence lower bound with closed-form KL terms, $\frac{1}{K}\sum_k \log p(x|z_k) - \sum_l KL_l$.

    Kingma and Welling 2014, eq. 7. See `trace.Layer.kl` for layers whose KL has no closed form.
    """

    def __call__(self, model: Traced, x: Any) -> Tensor:
        return model(x, samples=self.samples).terms()["elbo"]


class STL(TraceObjective):
    r"""The evidence lower bound with the path derivative ("sticking the landing").

    $\nabla_\phi = E_\epsilon[\nabla_z \log w \, \nabla_\phi z]$ (Roeder et al. 2017, eq. 8). The frozen model scores
    log q(z|x), so that only the path through z is left. The term left out, $E_q[\nabla_\phi \log q]$, is zero. The
    gradient of every single draw vanishes where q(z|x) is the exact posterior.
    """

    rescores = True
    exact_path = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        live = model(x, samples=self.samples)
        cold = frozen(model)(x, samples=self.samples, zs=live.z)
        return (live.log_px_z + live.log_pz - cold.log_qz_x).mean(0)


@dataclass(frozen=True)
class BetaELBO(TraceObjective):
    r"""The ELBO with the gradient of $E_q[\log p(x|z)] - \beta \sum_l \max(\lambda, \overline{KL}_l)$.

    Higgins et al. 2017, eq. 4. The value is always the unweighted ELBO. In a warm-up, beta rises linearly from 0
    (Sønderby et al. 2016, section 2.4), once or in cycles (Fu et al. 2019, eq. 6). Free bits $\lambda$ bound
    $\overline{KL}_l$ from below, the KL of a layer averaged over a device's batch (Kingma et al. 2016, eq. 15): a
    layer below the bound is not pulled to its prior.

    Validation has the weight after the warm-up, so that epochs compare. There, $\overline{KL}_l$ is the mean over the
    whole set. Without a weight and free bits, the value is the ELBO.

    Attributes:
        samples: the number K of draws per example.
        beta: the weight on the KL after the warm-up.
        warmup_epochs: the length of the warm-up in epochs, added to `warmup_steps`.
        warmup_steps: the length of the warm-up in optimiser steps.
        cycle_epochs: the number of epochs after which the warm-up starts again, or None for one warm-up.
        free_bits: $\lambda$, in nats per layer, or 0 for none.
    """

    beta: NonNegativeFloat = 1.0
    warmup_epochs: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 0
    cycle_epochs: PositiveFloat | None = None
    free_bits: NonNegativeFloat = 0.0

    def __call__(self, model: Traced, x: Any) -> Tensor:
        trace = model(x, samples=self.samples)
        terms = trace.terms()
        kls = [terms[f"kl_{level}"] for level in range(1, len(trace.layers) + 1)]  # L times (B,)
        charged = torch.stack([self._floored(kl) for kl in kls]).sum(0)
        return with_value(terms["elbo"], terms["reconstruction"] - self.beta * charged)

    @property
    def criterion(self) -> str:
        return "elbo" if self.beta == 1 and not self.free_bits else "beta_elbo"

    def validation_terms(self, model: Traced, x: Any) -> dict[str, Tensor]:
        return {}

    def validated(self, means: Mapping[str, float]) -> dict[str, float]:
        if self.criterion == "elbo":
            return {}
        kls = [value for name, value in means.items() if fullmatch(r"kl_\d+", name)]
        charged = sum(max(kl, self.free_bits) if self.free_bits else kl for kl in kls)
        return {self.criterion: means["elbo"] + sum(kls) - self.beta * charged}

    def at(self, clock: Clock) -> "BetaELBO":
        return replace(self, beta=self.beta * self._warmth(clock))

    def _warmth(self, clock: Clock) -> float:
        warmup = self.warmup_steps + self.warmup_epochs * clock.steps_per_epoch
        cycle = inf if self.cycle_epochs is None else self.cycle_epochs * clock.steps_per_epoch
        return min(1.0, clock.step % cycle / warmup) if warmup else 1.0

    def _floored(self, kl: Tensor) -> Tensor:
        # No floor at 0 without free bits: an unbiased estimate of a KL may be negative.
        return kl.mean().clamp(min=self.free_bits).expand_as(kl) if self.free_bits else kl


def log_mean_exp(log_w: Tensor) -> Tensor:
    r"""The importance-weighted bound $\log \frac{1}{K}\sum_k w_k$, (...), for log weights (K, ...)."""
    return log_w.logsumexp(0) - log(len(log_w))


class MultiSample(TraceObjective):
    """A bound that couples the log weights of K draws. K = 1 gives the ELBO."""

    @abstractmethod
    def value(self, log_w: Tensor) -> Tensor:
        """The bound, (B,), for log weights (`draws`, B)."""

    @property
    def criterion(self) -> str:
        return "elbo" if self.samples == 1 else self.bound

    def validation_terms(self, model: Traced, x: Any) -> dict[str, Tensor]:
        # One pass, although an estimator of the gradient may need two.
        if self.criterion == "elbo":
            return {}
        return {self.criterion: self.value(model(x, samples=self.draws).log_w)}


class ImportanceWeighted(MultiSample):
    """An estimator of the importance-weighted bound. K = 1 gives the ELBO."""

    bound = "iwae"

    def value(self, log_w: Tensor) -> Tensor:
        return log_mean_exp(log_w)


class IWAE(ImportanceWeighted):
    r"""The importance-weighted bound $\log \frac{1}{K}\sum_k w_k$, $z_k \sim q(z|x)$. K = 1 gives the ELBO.

    Burda et al. 2016, eq. 8, with reparametrised gradients (eq. 13).
    """

    exact_path = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        return self.value(model(x, samples=self.samples).log_w)


@dataclass(frozen=True)
class MIWAE(MultiSample):
    r"""The mean of M importance-weighted bounds, $\frac{1}{M}\sum_m \log \frac{1}{K}\sum_k w_{mk}$.

    Rainforth et al. 2018. Its mean is that of `IWAE` with K draws, and M = 1 gives `IWAE`. The signal-to-noise
    ratio of its gradients rises with M.

    Attributes:
        samples: the number K of draws in each group.
        groups: the number M of groups.
    """

    groups: PositiveInt = 1
    bound = "iwae"
    exact_path = True

    @property
    def draws(self) -> int:
        return self.groups * self.samples

    def __call__(self, model: Traced, x: Any) -> Tensor:
        return self.value(model(x, samples=self.draws).log_w)

    def value(self, log_w: Tensor) -> Tensor:
        return log_mean_exp(log_w.unflatten(0, (self.samples, self.groups))).mean(0)


@dataclass(frozen=True)
class PIWAE(ImportanceWeighted):
    r"""The importance-weighted bound of M K draws, with the gradient of `MIWAE` for the inference network.

    Rainforth et al. 2018. The model has the tight bound. The inference network has the gradient with
    the higher signal-to-noise ratio. Parameters that both share have the sum of the two gradients.

    Attributes:
        samples: the number K of draws in each group.
        groups: the number M of groups.
    """

    groups: PositiveInt = 1
    exact_path = True
    rescores = True
    redecodes = True

    @property
    def draws(self) -> int:
        return self.groups * self.samples

    @property
    def criterion(self) -> str:
        return "elbo" if self.draws == 1 else self.bound

    def __call__(self, model: Traced, x: Any) -> Tensor:
        live = model(x, samples=self.draws)
        cold = frozen(model)(x, samples=self.draws, zs=live.z)
        log_w = live.log_w.detach()  # (M K, B)
        groups = log_w.unflatten(0, (self.samples, self.groups))
        in_group = groups.softmax(0).flatten(0, 1) / self.groups
        # The paths through z of live and cold cancel: the gradient of log p(x, z) at fixed z is left.
        model_term = live.log_px_z + live.log_pz - cold.log_px_z - cold.log_pz
        inference_term = cold.log_px_z + cold.log_pz - live.log_qz_x
        surrogate = (log_w.softmax(0) * model_term + in_group * inference_term).sum(0)
        return with_value(self.value(log_w), surrogate)


@dataclass(frozen=True)
class CIWAE(MultiSample):
    r"""The mixture of two bounds $\beta\,\mathrm{ELBO} + (1 - \beta)\,\mathrm{IWAE}$, from the same K draws.

    Rainforth et al. 2018.

    Attributes:
        samples: the number K of draws.
        beta: the weight $\beta$ of the ELBO, from 0 to 1.
    """

    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    bound = "ciwae"
    exact_path = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        return self.value(model(x, samples=self.samples).log_w)

    def value(self, log_w: Tensor) -> Tensor:
        return self.beta * log_w.mean(0) + (1 - self.beta) * log_mean_exp(log_w)


class DReG(ImportanceWeighted):
    r"""The importance-weighted bound with the doubly reparametrised gradient. K = 1 gives `STL`.

    With normalised weights $\tilde w_k$, the gradient of the inference network is
    $\sum_k \tilde w_k^2 \nabla_z \log w_k \nabla_\phi z_k$ (Tucker et al. 2018, eq. 8). The gradient of the model is
    $\sum_k \tilde w_k \nabla_\theta \log p(x, z_k)$ at fixed z. Unlike that of
    `IWAE`, its signal-to-noise ratio does not fall with K.
    """

    exact_path = True
    rescores = True
    redecodes = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        live = model(x, samples=self.samples)
        log_w = live.log_w
        cold = frozen(model)(x, samples=self.samples, zs=live.z)
        weight = log_w.detach().softmax(0)  # (K, B)
        # The paths through z of live and cold cancel: the gradient of log p(x, z) at fixed z is left.
        model_term = live.log_px_z + live.log_pz - cold.log_px_z - cold.log_pz
        surrogate = (weight * model_term + weight**2 * cold.log_w).sum(0)
        return with_value(log_mean_exp(log_w), surrogate)


def scored_at_fixed_draws(model: Traced, x: Any, samples: int) -> Trace:
    """The trace of exact draws of the latents, which carry no gradient path."""
    with torch.no_grad():
        # Frozen, because some releases of torch cache half-precision copies of live weights under autocast, without
        # gradients, and would use them in the call below.
        zs = frozen(model)(x, samples=samples).z
    return model(x, samples=samples, zs=zs)


@dataclass(frozen=True)
class ScoreFunction(TraceObjective):
    r"""The evidence lower bound with the score-function gradient (REINFORCE) and a leave-one-out baseline.

    $\frac{1}{K}\sum_k [(\log w_k - \frac{1}{K-1}\sum_{j \neq k} \log w_j) \nabla_\phi \log q(z_k|x)
    + \nabla_\theta \log p(x, z_k)]$ (Ranganath et al. 2014, eq. 3; Kool et al. 2019, eq. 8).

    Attributes:
        samples: the number K of draws per example, at least 2.
    """

    samples: Annotated[int, Field(ge=2)] = 2
    pathwise = False
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        trace = scored_at_fixed_draws(model, x, self.samples)
        log_w = trace.log_w.detach()
        signal = log_w - leave_one_out(log_w)  # (K, B)
        surrogate = signal * trace.log_qz_x + trace.log_px_z + trace.log_pz
        return with_value(log_w, surrogate).mean(0)


@dataclass(frozen=True)
class VIMCO(ImportanceWeighted):
    r"""The importance-weighted bound with the score-function gradient of Mnih and Rezende 2016.

    $\sum_k (\hat L - \hat L_{-k}) \nabla_\phi \log q(z_k|x) + \nabla \hat L|_z$ (eq. 8). $\hat L_{-k}$ is the bound
    $\hat L$ with $w_k$ replaced by the geometric mean of the others (eq. 7 and 10). Memory grows with $K^2 B$.

    Attributes:
        samples: the number K of draws per example, at least 2.
    """

    samples: Annotated[int, Field(ge=2)] = 2
    pathwise = False
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        trace = scored_at_fixed_draws(model, x, self.samples)
        value = log_mean_exp(trace.log_w)
        signal = (value - bounds_without_each(trace.log_w)).detach()  # (K, B)
        return with_value(value, value + (signal * trace.log_qz_x).sum(0))


@dataclass(frozen=True)
class RWS(ImportanceWeighted):
    r"""Reweighted wake-sleep: the importance-weighted bound for the model, and KL(p(z|x) || q(z|x)) for q.

    With normalised weights $\tilde w_k$ and draws $z_k$ that carry no gradient path, the gradient is
    $\sum_k \tilde w_k \nabla_\theta \log p(x, z_k)$ for the model and $\sum_k \tilde w_k \nabla_\phi \log q(z_k|x)$ for
    the inference network, the wake-phase update (Bornschein and Bengio 2015). The bias of the latter
    falls with K. Latents may be discrete.

    Attributes:
        samples: the number K of draws per example, at least 2.
    """

    samples: Annotated[int, Field(ge=2)] = 2
    pathwise = False
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        trace = scored_at_fixed_draws(model, x, self.samples)
        log_w = trace.log_w.detach()
        surrogate = log_w.softmax(0) * (trace.log_px_z + trace.log_pz + trace.log_qz_x)
        return with_value(self.value(log_w), surrogate.sum(0))


@dataclass(frozen=True)
class TVO(MultiSample):
    r"""The thermodynamic variational objective, a left Riemann sum of an integral that is log p(x).

    $\log p(x) = \int_0^1 E_{\pi_\beta}[\log w]\,d\beta$ with $\pi_\beta(z) \propto q(z|x)^{1-\beta} p(x, z)^\beta$
    (Masrani et al. 2019). Expectations have the normalised weights $\tilde w_k^\beta$ of K draws from q. The value is
    between the ELBO and the importance-weighted bound of these draws, because the integrand rises in beta. One
    partition gives the ELBO.

    The gradient is $E_{\pi_\beta}[\nabla \log w] + \mathrm{Cov}_{\pi_\beta}(\nabla \log \tilde\pi_\beta, \log w)$.
    Its bias falls with K. The draws need no gradient path, so that latents may be discrete.

    Attributes:
        samples: the number K of draws per example, at least 2.
        partitions: the number T of terms of the sum.
        first: $\beta_1$, the first point after 0. The others are $\beta_t = \beta_1^{(T-t)/(T-1)}$.
    """

    samples: Annotated[int, Field(ge=2)] = 2
    partitions: PositiveInt = 2
    first: Annotated[float, Field(gt=0, lt=1)] = 0.025
    bound = "tvo"
    pathwise = False
    rescores = True

    def __call__(self, model: Traced, x: Any) -> Tensor:
        trace = scored_at_fixed_draws(model, x, self.samples)
        value, log_w = self.value(trace.log_w), trace.log_w.detach()
        widths, weights = self._widths(log_w), self._weights(log_w)
        means = (weights * log_w).sum(1, keepdim=True)  # (T, 1, B)
        signal = (widths * weights * (log_w - means)).sum(0)  # (K, B)
        # At fixed z, the gradient of the value has all terms but the covariance with the gradient of log q.
        return with_value(value, value + (signal * trace.log_qz_x).sum(0))

    @property
    def criterion(self) -> str:
        return "elbo" if self.partitions == 1 else self.bound

    @property
    def points(self) -> list[float]:
        r"""The points $\beta_0 = 0, \beta_1, ..., \beta_T = 1$."""
        last = self.partitions - 1
        return [0.0, *(self.first ** (step / last) for step in range(last, 0, -1)), 1.0]

    def value(self, log_w: Tensor) -> Tensor:
        return (self._widths(log_w) * self._weights(log_w) * log_w).sum((0, 1))

    def _weights(self, log_w: Tensor) -> Tensor:
        left = log_w.new_tensor(self.points[:-1])[:, None, None]
        return (left * log_w).softmax(1)  # (T, K, B)

    def _widths(self, log_w: Tensor) -> Tensor:
        return log_w.new_tensor(self.points).diff()[:, None, None]  # (T, 1, 1)


def bounds_without_each(log_w: Tensor) -> Tensor:
    r"""The bounds $\hat L_{-k}$ for all k, with $\log w_k$ replaced by the mean of the others, (K, B) to (K, B)."""
    own = torch.eye(len(log_w), dtype=torch.bool, device=log_w.device)[..., None]  # (K, K, 1)
    return log_mean_exp(torch.where(own, leave_one_out(log_w), log_w[:, None]))


@dataclass(frozen=True)
class VLB(Objective):
    r"""The bound among the terms of a model that draws no trace.

    For a diffusion it is $E[\log p(x|z_0)] - KL(q(z_1|x)\,\|\,p(z_1)) - L_T$ (Kingma et al. 2021, eq. 11) with one
    random time for each draw, and `model.steps` is T. It may also be an exact log-likelihood.

    A weighting replaces $L_T$ in the gradient by another loss of the denoiser. The value is still the bound. Validation
    has the weighted objective as `weighted_elbo`, and the loss alone under the weighting's name.

    Attributes:
        samples: the number K of draws per example.
        weighting: the weight of the denoiser's error; None for that of the bound.
    """

    weighting: Weighting | None = BOUND

    def __call__(self, model: Scored, x: Any) -> Tensor:
        return self.parts(model, x)[self.bound]

    def parts(self, model: Any, x: Any) -> dict[str, Tensor]:
        if self.weighting in PLAIN:
            terms: dict[str, Tensor] = model.terms(x, samples=self.samples)
            return terms
        terms = model.weighted_terms(x, self.weighting, samples=self.samples)
        return {**terms, self.bound: with_value(terms[self.bound], terms[WEIGHTED])}

    @property
    def criterion(self) -> str:
        return self.bound if self.weighting in PLAIN else WEIGHTED

    def validation_terms(self, model: Any, x: Any) -> dict[str, Tensor]:
        if self.weighting in PLAIN:
            return {}
        terms = model.weighted_terms(x, self.weighting, samples=self.samples)
        return {name: terms[name] for name in (WEIGHTED, self.weighting.loss)}

    def check(self, model: nn.Module) -> None:
        if isinstance(model, Traced) or not (isinstance(model, Scored) and model.bounded):
            raise UserError(
                f"{type(self).__name__} needs a bound that the model itself computes, such as a diffusion, and "
                f"{type(model).__name__} has none: use the model's default objective "
                "(objective=analytic_elbo for a VAE), or choose model=vdm"
            )
        if self.weighting in PLAIN:
            return
        if not hasattr(model, "weighted_terms"):
            raise UserError(
                f"weighting={self.weighting.name} weights the loss of a diffusion, and {type(model).__name__} has "
                "none: choose weighting=bound"
            )
        if any(p.requires_grad for p in model.get_submodule("diffusion.noise_schedule").parameters()):
            raise UserError(
                f"weighting={self.weighting.name} depends on the noise schedule, which must not be learned for it: "
                "choose noise_schedule=linear, cosine or linear_beta, or weighting=bound"
            )


@dataclass(frozen=True)
class LatentDiffusion(VLB):
    r"""A beta-ELBO of the VAE for some epochs, and then the loss of the diffusion of its latents.

    Validation has the loss of the diffusion as `denoising`, negated. While the VAE is trained, the best checkpoint is
    the latest one. Then it is that of the best diffusion.

    Attributes:
        samples: the number K of draws per example.
        weighting: the weight of the denoiser's error; None for that of the bound.
        beta: the weight on the KL of the VAE to N(0, I).
        autoencoder_epochs: the epochs in which the VAE is trained.
        diffusing: True while the diffusion is trained. Training sets it, see `at`.
    """

    beta: NonNegativeFloat = 1.0
    autoencoder_epochs: NonNegativeFloat = 10.0
    diffusing: bool = False
    separable: ClassVar[bool] = True

    def at(self, clock: Clock) -> "LatentDiffusion":
        return replace(self, diffusing=clock.step >= self.autoencoder_epochs * clock.steps_per_epoch)

    @property
    def final(self) -> bool:
        return self.diffusing

    def check_length(self, epochs: int) -> None:
        if epochs <= self.autoencoder_epochs:
            raise UserError(
                f"objective.autoencoder_epochs={self.autoencoder_epochs:g}: the training has {epochs} epochs, so that "
                "no diffusion would be trained: raise trainer.max_epochs or lower objective.autoencoder_epochs"
            )

    def parts(self, model: Any, x: Any) -> dict[str, Tensor]:
        if self.diffusing:
            model.diffusing.fill_(True)
            return super().parts(model, x)
        terms: dict[str, Tensor] = model.autoencoder_terms(x)
        return {**terms, "elbo": with_value(terms["elbo"], terms["reconstruction"] - self.beta * terms["kl"])}

    @property
    def criterion(self) -> str:
        return "denoising"

    def validation_terms(self, model: Any, x: Any) -> dict[str, Tensor]:
        terms = model.weighted_terms(x, self.weighting or BOUND, samples=self.samples)
        return {self.criterion: -terms[(self.weighting or BOUND).loss]}

    def check(self, model: nn.Module) -> None:
        super().check(model)
        if not hasattr(model, "autoencoder_terms"):
            raise UserError(
                f"LatentDiffusion trains a VAE and then a diffusion of its latents, which {type(model).__name__} "
                "does not have: use the model's default objective, or choose model=latent_ddpm"
            )


@dataclass(frozen=True)
class SemiSupervised(VLB):
    r"""The bound of examples, some with a label, with a classification loss (Kingma et al. 2014).

    $L(x, y) + \alpha \log q(y|x)$ for a labelled example, and the bound U(x) on log p(x) for another one. The value is
    U(x) for both, and the gradient is that of the objective.

    Attributes:
        samples: the number K of draws of z per example and class.
        alpha: the weight of the classification loss.
    """

    alpha: NonNegativeFloat = 50.0

    def parts(self, model: Any, x: Any) -> dict[str, Tensor]:
        objective, terms = model.semi_supervised(x, self.alpha, samples=self.samples)
        return {**terms, self.bound: with_value(terms[self.bound], objective)}

    def check(self, model: nn.Module) -> None:
        if not getattr(model, "infers_labels", False):
            raise UserError(
                f"SemiSupervised needs a model that infers labels, and {type(model).__name__} does not: choose "
                "model=semi_supervised_vae, or leave out objective=semi_supervised"
            )


class Reconstruction(Objective):
    """The reconstruction score log p(x|z(x)) of a deterministic autoencoder, which is not a bound on log p(x)."""

    bound = "reconstruction"

    def __call__(self, model: Scored, x: Any) -> Tensor:
        return model.terms(x, samples=self.samples)[self.bound]

    def check(self, model: nn.Module) -> None:
        if not isinstance(model, Scored) or model.bounded:
            raise UserError(
                f"{type(self).__name__} is not a bound, and {type(model).__name__} has one: "
                "use the model's default objective "
                "(objective=beta_elbo objective.beta=0 leaves the KL of a VAE out of the gradient), "
                "or choose model=autoencoder"
            )
        if model.bound != self.bound:
            raise UserError(
                f"{type(self).__name__} is the score {self.bound}, and {type(model).__name__} has {model.bound}: "
                "use the model's default objective"
            )
        if self.samples > 1:
            raise UserError(
                f"objective.samples={self.samples}: an autoencoder draws nothing: set objective.samples=1"
            )


class LogPrior(Reconstruction):
    """The density log p(z(x)) of an autoencoder's latents, which is not a bound on log p(x)."""

    bound = "log_prior"
