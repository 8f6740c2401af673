"""The inference gap of a trained model, split into an approximation gap and an amortisation gap."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from latentlab.draws import reproducible
from latentlab.errors import UserError
from latentlab.evaluation import EVALUATION_SEED, Tally, log_likelihood
from latentlab.gradients import frozen
from latentlab.models.base import GenerativeModel, device_of
from latentlab.models.vae import SingleLayer

# The gaps of the examples that a model has, by name.
NAMES = ("inference_gap", "approximation_gap", "amortisation_gap")
# The share of the steps that `amortisation_gap_change` refers to.
LAST = 0.25
# The draws for the bounds that are compared in the optimisation, and for each of the two reported bounds.
COMPARISON_DRAWS, BOUND_DRAWS = 200, 1000
CHUNK = 50
# An estimate of log p(x) from the model with the optimised posterior, (B,).
LogLikelihood = Callable[[SingleLayer, Any], Tensor]


@dataclass(frozen=True)
class Search:
    """The settings of the optimisation of q for each example.

    Attributes:
        steps: the number of steps of Adam.
        samples: the draws of the latents per example in a step.
        learning_rate: the learning rate at the start. It falls to zero as a cosine.
    """

    steps: int = 500
    samples: int = 10
    learning_rate: float = 0.02


class Free(nn.Module):
    """A network whose output is a parameter (B, *out_shape), whatever its input."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: Tensor) -> Tensor:
        return self.output


def check(model: nn.Module) -> None:
    """Refuse a model whose q(z|x) cannot be optimised for each example.

    Raises:
        UserError: with the reason and the models that work.
    """
    name = type(model).__name__
    if not isinstance(model, SingleLayer):
        raise UserError(
            f"gaps.examples: {name} does not have a single layer of latents with a learned q(z|x): set "
            "gaps.examples=0, or evaluate a run of model=vae or model=conditional_vae"
        )
    if not isinstance(getattr(model.posterior, "network", None), nn.Module):
        raise UserError(
            f"gaps.examples: {type(model.posterior).__name__} has no `network` whose output could be optimised: set "
            "gaps.examples=0"
        )
    if model.discrete or not model.reparametrised:
        raise UserError(
            f"gaps.examples: the draws of {name}'s {type(model.posterior).__name__} have no gradient path with a "
            "density: set gaps.examples=0"
        )


def localised(model: SingleLayer, x: Any) -> SingleLayer:
    """Return a copy of a model whose q(z|x_n) has free parameters for each of the examples x.

    These start at the encoder's output. The posterior's family stays: a flow keeps its weights. The copy shares the
    prior, which may use the encoder, and the likelihood.
    """
    outputs: list[Tensor] = []
    posterior: Any = model.posterior
    with torch.no_grad(), posterior.network.register_forward_hook(lambda *call: outputs.append(call[-1])):
        model.encode(x)
    kept = {id(each): each for each in (model.prior, model.likelihood)}
    free = Free(outputs[0].detach().clone())
    return deepcopy(model, {**kept, id(posterior.network): free})


def optimise(local: SingleLayer, x: Any, search: Search) -> Tensor:
    r"""Optimise q for each example, and return the increase of its ELBO in the last quarter of the steps, (B,).

    All examples are optimised together, since neither the bound nor Adam couples them. The gradient is the path
    derivative of Roeder et al. 2017, eq. 8, whose noise vanishes where q is the exact posterior. An example whose ELBO
    is no larger at the end, under common random numbers, keeps its first q.
    """
    output: Any = local.posterior.network.output  # type: ignore[union-attr]  # that of a `Free` network
    adam = Adam([output], search.learning_rate)
    schedule = CosineAnnealingLR(adam, search.steps)
    first, start = output.detach().clone(), _compared(local, x)
    late, before = int((1 - LAST) * search.steps), start
    for step in range(search.steps):
        if step == late:
            before = _compared(local, x)
        adam.zero_grad()
        (-_path_derivative(local, x, search.samples).sum()).backward()
        adam.step()
        schedule.step()
    end = _compared(local, x)
    kept = ~(end > start)
    output.data[kept] = first[kept]
    return torch.where(kept, 0, end - before)


def _path_derivative(local: SingleLayer, x: Any, samples: int) -> Tensor:
    trace = local(x, samples=samples)
    # The free network ignores its input.
    log_q = frozen(local.posterior)(trace.z[0]).log_prob(trace.z[0])
    return (trace.log_px_z + trace.log_pz - log_q).mean(0)


def _compared(local: SingleLayer, x: Any) -> Tensor:
    with reproducible(EVALUATION_SEED, device_of(local)):
        return elbo(local, x, COMPARISON_DRAWS)


@torch.no_grad()
def elbo(model: SingleLayer, x: Any, samples: int) -> Tensor:
    r"""The ELBO of each example, $\frac{1}{K}\sum_k \log w_k$, (B,), float64, with K rounded up to whole chunks.

    Its noise vanishes where q is the exact posterior. That of the bound with a closed-form KL does not.
    """
    chunks = [model(x, samples=CHUNK).log_w.double().mean(0) for _ in range(0, samples, CHUNK)]
    return torch.stack(chunks).mean(0)


def gaps(model: SingleLayer, x: Any, log_px: LogLikelihood, search: Search) -> dict[str, Tensor]:
    r"""The gaps of each example, in nats, and `amortisation_gap_change` (see `optimise`), each (B,).

    $\log p(x) - L[q] = (\log p(x) - L[q^*]) + (L[q^*] - L[q])$, the approximation gap and the amortisation gap (Cremer
    et al. 2018, section 3). $q^*$ is the best member of the posterior's family for each example. Both bounds have
    the same draws, which are independent of those that chose $q^*$. An estimate of log p(x) that is too small in the
    mean, as of importance weights or AIS, makes the approximation gap too small.

    Args:
        model: the trained model. Its parameters need no gradients.
        x: the observations.
        log_px: estimates log p(x) from the model with the optimised posterior.
        search: the settings of the optimisation.
    """
    with torch.inference_mode(False), torch.enable_grad():
        local = localised(model, x)
        change = optimise(local, x, search)
    seed = int(torch.randint(2**31, ()))
    bounds = []
    for each in (model, local):
        with reproducible(seed, device_of(model)):
            bounds.append(elbo(each, x, BOUND_DRAWS))
    with torch.no_grad():
        found = log_px(local, x)
    amortised, optimised = bounds
    parts = (found - amortised, found - optimised, optimised - amortised)
    return {**dict(zip(NAMES, parts, strict=True)), "amortisation_gap_change": change}


def importance_weighted(samples: int) -> LogLikelihood:
    """Return the importance-weighted estimate with a number of draws from the optimised posterior."""
    return lambda local, x: log_likelihood(local, x, samples, CHUNK)


def estimate(
    model: GenerativeModel, xs: Iterable[Any], log_px: LogLikelihood, search: Search
) -> dict[str, float]:
    """The mean gaps over examples, each with its standard error as NAME_stderr, and the mean change.

    Args:
        model: the trained model in evaluation mode, which `check` has accepted.
        xs: the observations in blocks.
        log_px: estimates log p(x) from the model with the optimised posterior.
        search: the settings of the optimisation.
    """
    tally = Tally()
    for each in _blocks(model, xs, log_px, search):
        tally.add(each)
    means = tally.means(None, NAMES[0])
    errors = {f"{name}_stderr": tally.means(None, name)[f"{name}_stderr"] for name in NAMES}
    return {**{name: means[name] for name in tally.totals}, **errors}


def _blocks(
    model: Any, xs: Iterable[Any], log_px: LogLikelihood, search: Search
) -> Iterator[dict[str, Tensor]]:
    for seed, x in zip(count(EVALUATION_SEED), xs, strict=False):
        with reproducible(seed, device_of(model)):
            yield gaps(model, x, log_px, search)
