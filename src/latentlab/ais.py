r"""The log-likelihood log p(x) by annealed importance sampling (Neal 2001) with Hamiltonian Monte Carlo.

Chains of latents z move through densities between a start, which can be drawn from, and the joint density p(x, z). For
inverse temperatures $0 = b_0 < \dots < b_T = 1$ they are
$f_t(z) = \mathrm{start}(z)^{1 - b_t}\,p(x, z)^{b_t}$. The weight of a chain is
$w = \prod_{t=1}^T f_t(z_{t-1}) / f_{t-1}(z_{t-1})$, where $z_0$ is drawn from the start and $z_t$ from a transition
that leaves $f_t$ invariant. Then $E[w] = p(x)$, and $\log \frac{1}{K} \sum_k w_k$ is at most log p(x) in expectation.
With T = 1 and the start q(z|x), this is the importance-weighted estimate.

Wu et al. 2017, "On the quantitative analysis of decoder-based generative models", measure decoders in this way.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from math import inf, log, nan, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentlab.batch import Batch
from latentlab.draws import each_block
from latentlab.errors import UserError
from latentlab.evaluation import Passes
from latentlab.likelihoods import EnsembleLikelihood
from latentlab.models.base import device_of
from latentlab.trace import Trace, Traced, sample

# The seed of the first block, apart from those in `evaluation`.
AIS_SEED = 2**31 + 2**30
# The acceptance rate that step sizes are tuned to.
ACCEPTANCE = 0.65
# The first step size, and the rates of change of its logarithm at the first transition and in the long run.
FIRST_STEP = 0.1
RATES = (1.0, 0.15)
# Trajectories with a latent beyond it have diverged.
FAR = 1e6
# The steepness of the sigmoid ladder.
STEEPNESS = 4.0


class Start(ABC):
    """The density that chains start from."""

    @abstractmethod
    def draw(self, model: Any, x: Any, chains: int) -> Tensor:
        """Draw K = `chains` latents for each example, flat, (K, B, D)."""

    @abstractmethod
    def scores(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """Return log start(z) and log p(x, z) - log start(z), each (K, B)."""


class FromPrior(Start):
    """The prior p(z)."""

    def draw(self, model: Any, x: Any, chains: int) -> Tensor:
        def drawn(size: int) -> Tensor:
            z: Tensor = model.sample_latents(chains * size)
            return z.view(chains, size, -1)

        return each_block(_examples(x), drawn, dim=1)

    def scores(self, trace: Trace) -> tuple[Tensor, Tensor]:
        return trace.log_pz, trace.log_px_z


class FromPosterior(Start):
    """The variational posterior q(z|x)."""

    def draw(self, model: Any, x: Any, chains: int) -> Tensor:
        return torch.cat([z.flatten(2) for z in model(x, samples=chains).z], dim=2)

    def scores(self, trace: Trace) -> tuple[Tensor, Tensor]:
        return trace.log_qz_x, trace.log_w


def linear(steps: int) -> Tensor:
    """Return T + 1 equidistant inverse temperatures from 0 to 1, float64."""
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def sigmoid(steps: int) -> Tensor:
    r"""Return T + 1 inverse temperatures from 0 to 1 that are close together at both ends, float64.

    $b_t \propto \sigma(\delta(2t/T - 1)) - \sigma(-\delta)$ with $\delta = 4$, as in the code of Wu et al. 2017.
    """
    values = (STEEPNESS * (2 * linear(steps) - 1)).sigmoid()
    return (values - values[0]) / (values[-1] - values[0])


STARTS: dict[str, Start] = {"prior": FromPrior(), "posterior": FromPosterior()}
LADDERS: dict[str, Callable[[int], Tensor]] = {"linear": linear, "sigmoid": sigmoid}


class Point(NamedTuple):
    r"""Latents z with log f(z) = `log_start` + b `log_ratio` for every inverse temperature b.

    Attributes:
        z: flat latents, (K, B, D).
        log_start: log start(z), float64 (K, B).
        log_ratio: log p(x, z) - log start(z), float64 (K, B).
        d_start: the gradient of log_start in z, (K, B, D).
        d_ratio: the gradient of log_ratio in z, (K, B, D).
    """

    z: Tensor
    log_start: Tensor
    log_ratio: Tensor
    d_start: Tensor
    d_ratio: Tensor

    def log_density(self, b: float) -> Tensor:
        return self.log_start + b * self.log_ratio

    def slope(self, b: float) -> Tensor:
        return self.d_start + b * self.d_ratio

    def replaced(self, other: "Point", where: Tensor) -> "Point":
        """The point with the chains `where` (K, B) of another one."""
        pairs = zip(self, other, strict=True)
        return Point(*(torch.where(where[..., None] if a.ndim > 2 else where, b, a) for a, b in pairs))


class Path:
    """The densities between a start and the joint density of a model, for given observations.

    Args:
        model: the model. Its call returns a trace.
        x: the observations.
        start: the density at b = 0.
    """

    def __init__(self, model: Any, x: Any, start: Start) -> None:
        self.model, self.x, self.start = model, x, start
        with torch.no_grad():
            self.shapes = [z.shape[2:] for z in model(x).z]

    def draw(self, chains: int) -> Tensor:
        with torch.no_grad():
            return self.start.draw(self.model, self.x, chains)

    def layers(self, z: Tensor) -> list[Tensor]:
        """Split flat latents (K, B, D) into the layers."""
        parts = z.split([prod(shape) for shape in self.shapes], dim=2)
        return [part.unflatten(2, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def at(self, z: Tensor) -> Point:
        """Score latents (K, B, D). Those of a trajectory that has diverged have the density zero."""
        z = z.detach().requires_grad_()
        near = (z.abs() < FAR).all(2)
        with torch.enable_grad():
            layers = self.layers(torch.where(near[..., None], z, 0.0))
            trace = self.model(self.x, samples=len(z), zs=layers)
            log_start, log_ratio = self.start.scores(trace)
            (d_start,) = torch.autograd.grad(log_start.sum(), z, retain_graph=True)
            (d_ratio,) = torch.autograd.grad(log_ratio.sum(), z)
        inside = torch.where(near, log_start.detach().double(), -inf)
        return Point(z.detach(), inside, log_ratio.detach().double(), d_start, d_ratio)


def transition(path: Path, point: Point, b: float, steps: Tensor, leapfrog: int) -> tuple[Point, Tensor]:
    r"""One transition of Hamiltonian Monte Carlo that leaves f(z) at b invariant.

    Neal 2011, "MCMC using Hamiltonian dynamics".

    Args:
        path: the densities.
        point: the latents.
        b: the inverse temperature.
        steps: the step size of each example, (B,).
        leapfrog: the number of leapfrog steps.

    Returns:
        The next point, and the acceptance probability of each chain, (K, B).
    """
    eps = steps.to(point.z.dtype)[:, None]  # (B, 1)
    p = momentum = _noise(point.z, torch.randn)
    end = point
    for _ in range(leapfrog):
        half = p + eps / 2 * end.slope(b)
        end = path.at(end.z + eps * half)
        p = half + eps / 2 * end.slope(b)
    kinetic = (momentum.double().square() - p.double().square()).sum(2) / 2
    log_accept = end.log_density(b) - point.log_density(b) + kinetic
    accept = log_accept.clamp(max=0).exp().nan_to_num(0.0)
    uniform = _noise(point.log_start, torch.rand)
    return point.replaced(end, uniform < accept), accept


def _noise(like: Tensor, draw: Callable[..., Tensor]) -> Tensor:
    # Independent draws for the chains (K, B, ...) of each example.
    chains, examples, *rest = like.shape
    return each_block(
        examples, lambda size: draw(chains, size, *rest, dtype=like.dtype, device=like.device), dim=1
    )


class Estimate(NamedTuple):
    """Estimates of log p(x) from the weights of K chains, each (B,), float64.

    Attributes:
        log_px: the log of the mean weight, at most log p(x) in expectation.
        variance: the Monte Carlo variance of log_px to first order, NaN for one chain.
        acceptance: the mean acceptance probability.
    """

    log_px: Tensor
    variance: Tensor
    acceptance: Tensor


def joined(parts: Iterable[Estimate]) -> Estimate:
    """Join the estimates of several passes, on the CPU."""
    return Estimate(*(torch.cat([part.cpu() for part in column]) for column in zip(*parts, strict=True)))


def _estimate(log_w: Tensor, acceptance: Tensor) -> Estimate:
    chains = len(log_w)
    log_px = log_w.logsumexp(0) - log(chains)
    squares = ((log_w - log_px).exp() - 1).square().sum(0)
    return Estimate(log_px, squares / (chains * (chains - 1)) if chains > 1 else squares * nan, acceptance)


@dataclass(frozen=True)
class AIS:
    """Annealed importance sampling with a number of chains for each example.

    The step size of each example at each inverse temperature is tuned on one chain, which is then thrown away. The
    other chains use these step sizes as they are. Hence their weights are unbiased.

    Attributes:
        chains: the number K of chains for each example.
        steps: the number T of inverse temperatures above 0.
        leapfrog: the leapfrog steps of a transition.
        start: the density that chains start from.
        ladder: makes the inverse temperatures.
    """

    chains: int = 4
    steps: int = 1000
    leapfrog: int = 5
    start: Start = STARTS["posterior"]
    ladder: Callable[[int], Tensor] = sigmoid

    def forward(self, model: Any, x: Any) -> Estimate:
        """Estimate log p(x) of each example. In expectation it is a lower bound."""
        return self._upwards(Path(model, x, self.start))[0]

    def both(self, model: Any, x: Any, z: Tensor) -> tuple[Estimate, Estimate]:
        r"""Bound log p(x) of simulated examples from below and above, in expectation.

        Bidirectional Monte Carlo (Grosse et al. 2015, https://arxiv.org/abs/1511.02543). Chains that start at the
        latents that made x, which are a draw from p(z|x), run the ladder downwards. Their mean weight estimates
        1 / p(x) without bias.

        Args:
            model: the model.
            x: the simulated observations.
            z: their flat latents, (B, D).
        """
        path = Path(model, x, self.start)
        below, step_sizes = self._upwards(path)
        exact = z.expand(self.chains, *z.shape)
        above = self._run(path, exact, self.ladder(self.steps).flip(0), step_sizes.flip(0))
        return below, above._replace(log_px=-above.log_px)

    def _upwards(self, path: Path) -> tuple[Estimate, Tensor]:
        z, step_sizes = path.draw(self.chains), self.tuned(path)
        return self._run(path, z, self.ladder(self.steps), step_sizes), step_sizes

    def _run(self, path: Path, z: Tensor, ladder: Tensor, step_sizes: Tensor) -> Estimate:
        # The estimate from chains that start at z (K, B, D) and move along a ladder.
        point = path.at(z)
        log_w, accepted = torch.zeros_like(point.log_ratio), torch.zeros_like(point.log_ratio)
        for t, (before, b) in enumerate(pairwise(ladder.tolist())):
            log_w += (b - before) * point.log_ratio
            if t < len(step_sizes):  # no weight depends on a transition at the last temperature
                point, accept = transition(path, point, b, step_sizes[t], self.leapfrog)
                accepted += accept
        return _estimate(log_w, accepted.mean(0) / max(1, len(step_sizes)))

    def tuned(self, path: Path) -> Tensor:
        """Return the step sizes of each example at the inner inverse temperatures, (T - 1, B).

        After each transition of a chain, the log step size changes in proportion to the acceptance probability minus
        0.65.
        """
        point, found = path.at(path.draw(1)), []
        log_steps = torch.full_like(point.log_start[0], log(FIRST_STEP))
        for t, b in enumerate(self.ladder(self.steps)[1:-1].tolist()):
            point, accept = transition(path, point, b, log_steps.exp(), self.leapfrog)
            found.append(log_steps.exp())
            first, last = RATES
            rate = max(last, first / (1 + t / 4))
            log_steps = log_steps + rate * (accept[0] - ACCEPTANCE)
        return torch.stack(found) if found else log_steps.new_zeros(0, len(log_steps))


DEFAULT = AIS()


def check(model: nn.Module, key: str = "nll.method=ais") -> None:
    """Refuse a model whose latents cannot be moved by Hamiltonian Monte Carlo.

    Args:
        model: the model.
        key: the setting that asks for it.

    Raises:
        UserError: with the reason.
    """
    if reason := _unfit(model):
        raise UserError(f"{key}: {type(model).__name__} {reason}: set nll.method=importance nll.bdmc=0")


def _unfit(model: nn.Module) -> str:
    if not isinstance(model, Traced):
        return "has no densities of given latents"
    if model.discrete:
        return "has discrete latents, and Hamiltonian Monte Carlo needs their gradient"
    if isinstance(getattr(model, "likelihood", None), EnsembleLikelihood):
        return "has several decoders, whose mean log p(x|z) is no density"
    return ""


def log_likelihood(model: Any, x: Any, ais: AIS = DEFAULT) -> Tensor:
    """The estimate of log p(x) of each example by annealed importance sampling, float64 (B,), in nats."""
    return ais.forward(model, x).log_px


def estimates(model: Any, batches: Iterable[Batch], ais: AIS) -> Iterator[Estimate]:
    """Yield the estimates of log p(x) of a data set. A chain depends on the position of its block alone."""
    yield from _passes(model, batches, ais, lambda batch: ais.forward(model, model.observe(batch)))


def simulated(model: Any, batches: Iterable[Batch], ais: AIS) -> Iterator[tuple[Estimate, Estimate]]:
    """Yield bounds on log p(x) from below and above, for simulated images in place of those of a data set.

    Labels that a model observes are those of the data set.
    """

    def bounds(batch: Batch) -> tuple[Estimate, Estimate]:
        z, images = simulate(model, batch)
        return ais.both(model, model.observe(Batch(images, batch.y)), z)

    yield from _passes(model, batches, ais, bounds)


@torch.no_grad()
def simulate(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Draw flat latents z ~ p(z), (B, D), and images x ~ p(x|z), for the labels of a batch."""
    x = model.observe(batch)
    z = FromPrior().draw(model, x, 1)
    trace = model(x, zs=Path(model, x, STARTS["prior"]).layers(z))
    return z[0], sample(trace.px)[0]


def _examples(x: Any) -> int:
    return len(x.y if isinstance(x, Batch) else x)


def _passes(model: Any, batches: Iterable[Batch], ais: AIS, score: Callable[[Batch], Any]) -> Iterator[Any]:
    passes, seeds, device = Passes(ais.chains), count(AIS_SEED), device_of(model)
    for batch in batches:
        yield from passes(score, batch.to(device), seeds)
