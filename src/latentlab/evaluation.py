"""Estimates of a trained model: exact means, NLL, bits per dimension, active units, mutual information."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import count, islice
from math import ceil, log, prod, sqrt
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, kl_divergence

from latentlab.batch import BLOCK, Batch, blocks
from latentlab.draws import Blocks, reproducible
from latentlab.errors import UserError
from latentlab.models.base import GenerativeModel, device_of
from latentlab.models.gmvae import GMVAE
from latentlab.protocols import Protocol
from latentlab.trace import Layer, Trace, Traced

# Draws of the latents per example, for the NLL of a model that has one.
NLL_SAMPLES = 100
# The seeds of the draws for the bound, for arrays of latents and for the NLL start here, apart from one another and
# from the small seeds that users choose for training. The generator of a CPU reads 32 bits of a seed.
EVALUATION_SEED, LATENTS_SEED, NLL_SEED = 2**20, 2**30, 2**31
# The most rows of a pass over several blocks: its examples times the draws of each. On a CPU more rows win nothing, and
# they leave the cache. On a GPU the launches take longer than the arithmetic of fewer rows (not measured).
PASS = {"cpu": 200, "cuda": 10_000}
# The draws for a test bound are made in this many repeats, or in fewer if there are fewer draws.
REPEATS = 4
T = TypeVar("T")
# The least part of the spread of a bound over examples that is not taken for noise of its draws.
LEAST_SPREAD = 0.25
# A latent is active if its posterior mean has a larger variance (Burda et al. 2016, section 5).
ACTIVE_VARIANCE = 0.01
# The default number of examples in the mixture q(z). The time grows with its square.
MIXTURE_EXAMPLES = 10_000


class Draws(NamedTuple):
    r"""The terms of a batch, averaged over draws.

    Attributes:
        terms: the terms, each (B,).
        noise: the variance of the bound over draws, (2,): $\sum_n v_n$ over examples n and $\sum_j v_j$ over blocks j,
            where v_n is that of the bound of an example, and v_j that of the sum of a block's bounds. None without
            repeats.
    """

    terms: dict[str, Tensor]
    noise: Tensor | None = None


def repeats(samples: int) -> list[int]:
    """Return the numbers of draws of the independent repeats that make `samples` draws."""
    return [len(range(first, samples, REPEATS)) for first in range(min(samples, REPEATS))]


def repeated(terms: Callable[..., dict[str, Tensor]], x: Any, samples: int, bound: str) -> Draws:
    """Return the terms of x from independent repeats, with the noise of the term `bound`.

    Args:
        terms: returns the terms of x from a number of draws, `samples`.
        x: the observations of whole blocks.
        samples: the draws per example, over all repeats.
        bound: the name of the term that is the model's score.
    """
    sizes = repeats(samples)
    parts = [terms(x, samples=size) for size in sizes]
    if len(parts) == 1:
        return Draws(parts[0])
    weights = torch.tensor(sizes).double()
    drawn = {name: torch.stack([part[name].cpu().double() for part in parts]) for name in parts[0]}  # (R, B)
    means = {name: each.T @ weights / samples for name, each in drawn.items()}
    return Draws(means, _noise(drawn[bound], weights))


def _noise(bounds: Tensor, weights: Tensor) -> Tensor:
    of_blocks = torch.stack([block.sum(1) for block in bounds.split(BLOCK, dim=1)], dim=1)  # (R, J)
    return torch.stack([_variance(each, weights).sum() for each in (bounds, of_blocks)])


def _variance(means: Tensor, weights: Tensor) -> Tensor:
    # Means of n_r draws, with the weights n_r, (R, N). Unbiased for the variance of the mean of all draws, (N,).
    n = weights[:, None]
    mean = (n * means).sum(0) / n.sum()
    return (n * (means - mean) ** 2).sum(0) / ((len(n) - 1) * n.sum())


class Ranks(NamedTuple):
    """This process among those that share a data set.

    Attributes:
        rank: its number, from 0.
        world: the number of processes.
        add: adds a float64 tensor over all of them.
    """

    rank: int
    world: int
    add: Callable[[Tensor], Tensor]


# A process that has the whole data set.
ALONE = Ranks(0, 1, lambda sums: sums)


class Tally:
    """Float64 sums of named terms, whose means over a data set do not depend on the batch size."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.squares: dict[str, float] = {}
        self.count = 0
        self.noise: Tensor | None = None

    def add(self, terms: Mapping[str, Tensor], noise: Tensor | None = None) -> None:
        """Add the terms of a batch, each (B,), and their noise (see `Draws`)."""
        if noise is not None:
            self.noise = noise if self.noise is None else self.noise + noise
        columns = torch.stack(list(terms.values())).detach().cpu().double()  # (terms, B)
        for name, total, square in zip(
            terms, columns.sum(1).tolist(), (columns**2).sum(1).tolist(), strict=True
        ):
            self.totals[name] = self.totals.get(name, 0.0) + total
            self.squares[name] = self.squares.get(name, 0.0) + square
        self.count += columns.shape[1]

    def means(
        self,
        expected: int | None,
        bound: str = "elbo",
        add_ranks: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> dict[str, float]:
        r"""The mean of each term, the standard error of `bound` as `<bound>_stderr`, and `num_examples`.

        Without repeated draws, $\mathrm{stderr} = s / \sqrt n$ with the standard deviation s over examples.
        With them, $\mathrm{stderr}^2 = (s^2 / n - \sum_n v_n / n^2) + \mathrm{mc}^2$ with
        $\mathrm{mc}^2 = \sum_j v_j / n^2$, see `Draws`. The first part is the spread over examples alone. The second is
        the Monte Carlo error of these examples, reported as `<bound>_mc_stderr`. Draws of different blocks are
        independent. Those of one block need not be, such as the evenly spaced times of a diffusion.

        Args:
            expected: the number of examples in the data set, or None for any number.
            bound: the name of the term that is the model's score.
            add_ranks: adds a float64 tensor over all ranks.

        Raises:
            UserError: if not every example was counted exactly once.
        """
        noise = [0.0, 0.0] if self.noise is None else self.noise.tolist()
        own = [self.count, *noise, *self.totals.values(), *self.squares.values()]
        count, of_examples, of_blocks, *rest = add_ranks(torch.tensor(own, dtype=torch.float64)).tolist()
        if expected is not None and count != expected:
            raise UserError(
                f"the bound was summed over {count:.0f} examples of {expected}, but a mean needs each exactly once: "
                "remove trainer.limit_test_batches"
            )
        means = dict(zip(self.totals, (total / count for total in rest), strict=False))
        squares = dict(zip(self.squares, rest[len(self.totals) :], strict=True))
        variance = (squares[bound] / count - means[bound] ** 2) / count
        # Where the noise of the draws prevails, the difference is noise too, and may be below zero.
        spread = max(variance - of_examples / count**2, LEAST_SPREAD * variance, 0.0)
        error = sqrt(spread + of_blocks / count**2)
        alone = {} if self.noise is None else {f"{bound}_mc_stderr": sqrt(of_blocks) / count}
        return {**means, f"{bound}_stderr": error, **alone, "num_examples": int(count)}


class Passes:
    """Passes of a model, each over several blocks of examples. A block has its own seed, whatever else is in the pass.

    A pass whose function draws by other means than those of `latentlab.draws` is repeated for each block alone, and so
    are all later ones.

    Args:
        draws: the number of draws of the latents per example.
    """

    def __init__(self, draws: int = 1) -> None:
        self.draws = draws
        self.together = True

    def __call__(self, score: Callable[[Batch], T], batch: Batch, seeds: Iterator[int]) -> Iterator[T]:
        """Yield `score` of each pass over a batch of whole blocks, which take the next seeds."""
        for part in blocks(batch, self.examples(batch.device)):
            own = list(islice(seeds, ceil(len(part.y) / BLOCK)))
            yield from self._scores(score, part, own)

    def examples(self, device: torch.device) -> int:
        """Return the number of examples in a pass."""
        return max(1, PASS[device.type] // (self.draws * BLOCK)) * BLOCK if device.type in PASS else BLOCK

    def _scores(self, score: Callable[[Batch], T], part: Batch, seeds: Sequence[int]) -> list[T]:
        if self.together and len(seeds) > 1:
            sizes = [len(block.y) for block in blocks(part)]
            with reproducible(seeds[0], part.device), Blocks(sizes, seeds, part.device) as drawn:
                found = score(part)
                self.together = not drawn.bypassed
            if self.together:
                return [found]
        return [_alone(score, block, seed) for block, seed in zip(blocks(part), seeds, strict=True)]


def _alone(score: Callable[[Batch], T], block: Batch, seed: int) -> T:
    with reproducible(seed, block.device):
        return score(block)


def scored(
    model: GenerativeModel,
    batches: Iterable[Batch],
    score: Callable[[Any], T],
    seeds: Iterable[int] | None = None,
    draws: int = 1,
) -> Iterator[T]:
    """Yield a function of the observations of each pass over a data set.

    The random draws for an example depend on the position of its block alone.

    Args:
        model: the model.
        batches: the data set.
        score: the function.
        seeds: the seed of each block, by default LATENTS_SEED and its index.
        draws: the number of draws of the latents per example.
    """

    @torch.inference_mode()
    def observed(part: Batch) -> T:
        return score(model.observe(part))

    device, passes, left = (
        device_of(model),
        Passes(draws),
        iter(count(LATENTS_SEED) if seeds is None else seeds),
    )
    for batch in batches:
        yield from passes(observed, batch.to(device), left)


def observations(model: GenerativeModel, batches: Iterable[Batch]) -> Iterator[Any]:
    """The observations of a data set in blocks (see `batch.blocks`), on the model's device."""
    device = device_of(model)
    for batch in batches:
        for block in blocks(batch):
            yield model.observe(block.to(device))


def log_likelihood(model: Callable[..., Trace], x: Any, samples: int, chunk: int = 50) -> Tensor:
    r"""The importance-weighted estimate of log p(x), $\log \frac{1}{K}\sum_k w_k$ (Burda et al. 2016, eq. 8), (B,).

    Draws K = `samples` latents, `chunk` at a time, so that memory does not grow with K.
    """
    sizes = [min(chunk, samples - start) for start in range(0, samples, chunk)]
    # A running sum: a list of results, allocated between the chunks, would keep the allocator from reusing their space.
    parts = (model(x, samples=size).log_w.double().logsumexp(0) for size in sizes)
    return reduce(torch.logaddexp, parts) - log(samples)


def log_likelihoods(
    model: Any, batches: Iterable[Batch], samples: int, chunk: int = 50, ranks: Ranks = ALONE
) -> Iterator[Tensor]:
    """Yield the importance-weighted estimates of log p(x) of each pass, (B,), in nats. `nll` is minus their mean."""
    score = lambda x: log_likelihood(model, x, samples, chunk)  # noqa: E731
    return scored(model, batches, score, count(NLL_SEED + ranks.rank, ranks.world), min(chunk, samples))


def terms(
    model: GenerativeModel, batches: Iterable[Batch], samples: int = 1, test: bool = True
) -> Iterator[dict[str, Tensor]]:
    """Yield the terms of each pass, each (B,), in nats. Their means over the test set are a run's test results.

    Args:
        model: the model.
        batches: the data set.
        samples: the draws of the latents per example.
        test: True for the terms of a test, False for those of a validation.
    """

    def score(x: Any) -> dict[str, Tensor]:
        return repeated(model.test_terms, x, samples, model.bound).terms if test else model.terms(x, samples)

    return scored(model, batches, score, count(EVALUATION_SEED, BLOCK), samples)


def nll(
    model: Any, batches: Iterable[Batch], samples: int, chunk: int, expected: int, ranks: Ranks = ALONE
) -> dict[str, float]:
    """The importance-weighted negative log-likelihood `nll` and its standard error `nll_stderr`, in nats per example.

    Args:
        model: a generative model whose call returns a trace.
        batches: this process's share of the data set. The seed of a block is NLL_SEED and its index in the set.
        samples: the draws of the latents per example.
        chunk: the draws held in memory at a time.
        expected: the number of examples in the data set.
        ranks: the processes that share the data set.
    """
    tally = Tally()
    for log_px in log_likelihoods(model, batches, samples, chunk, ranks):
        tally.add({"log_px": log_px})
    means = tally.means(expected, "log_px", ranks.add)
    return {"nll": -means["log_px"], "nll_stderr": means["log_px_stderr"], "nll_samples": samples}


def choose_nll_samples(model: nn.Module, asked: int | None) -> int:
    """The draws per example for the NLL: `asked`, or by default NLL_SAMPLES if the model has an NLL, else 0.

    Raises:
        UserError: if draws are asked for, but the model has no NLL to estimate.
    """
    missing = _without_nll(model)
    if asked and missing:
        raise UserError(f"nll.samples={asked}: {type(model).__name__} {missing}")
    return (0 if missing else NLL_SAMPLES) if asked is None else asked


def choose_samples(model: nn.Module, asked: int | None) -> int:
    """The draws of the latents per example for the bound: `asked`, or by default the model's `eval_samples`."""
    default = model.eval_samples if isinstance(model, GenerativeModel) else 1
    return default if asked is None else asked


def _without_nll(model: nn.Module) -> str | None:
    # The reason why a model has no NLL, with the remedy; None if it has one.
    if not isinstance(model, GenerativeModel):
        return "brings its own data and has no test set: set nll.samples=0"
    if not model.bounded:
        return "has no bound on log p(x): set nll.samples=0, or train another model, such as model=vae"
    if not model.weighted:
        return (
            "has no importance weights, and its bound is test/elbo: set nll.samples=0, or train another model, "
            "such as model=vae"
        )
    return None


def active_units(means: Tensor, threshold: float = ACTIVE_VARIANCE) -> int:
    r"""The number of latents with $\mathrm{Var}_x(E_{q(z|x)}[z]) > 0.01$ (Burda et al. 2016, sec. 5), means (N, D)."""
    return int((means.double().var(0) > threshold).sum())


def kl_per_latent(model: GenerativeModel, x: object) -> dict[int, Tensor]:
    """Return the KL of each latent for each example, (B, D), for the layers that have it, by their number from 1."""
    layers: Sequence[Layer] = model(x).layers if isinstance(model, Traced) else ()
    found = {number: _kl_of_units(layer) for number, layer in enumerate(layers, start=1)}
    return {number: kl.cpu() for number, kl in found.items() if kl is not None}


def _kl_of_units(layer: Layer) -> Tensor | None:
    q, p = layer.q, layer.p
    if layer.coupled or not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    try:
        kl = kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:
        return None
    return kl.reshape(-1, *kl.shape[-q.reinterpreted_batch_ndims :]).flatten(1)


def information(
    model: Traced, xs: Iterable[Any], num_examples: int, samples: int = 1, examples: int = MIXTURE_EXAMPLES
) -> dict[str, float]:
    r"""The parts of the KL to the prior, $E_x[KL(q(z|x)\,\|\,p(z))] = I(x; z) + KL(q(z)\,\|\,p(z))$, in nats.

    Hoffman and Johnson 2016, "ELBO surgery". The data are N test examples, so that $q(z) = \frac1N \sum_n q(z|x_n)$ and
    $I(x; z) = E_{q(z)}[\sum_n q(n|z) \log N q(n|z)]$, with one draw z ~ q(z|x) for each example. The estimate is
    unbiased for these examples. For all data it is too small, because it is at most log N, and `aggregate_kl` is too
    large.

    A hierarchy that draws z_1 first has I(x; z) = I(x; z_1), because x reaches the other layers through z_1 alone. If
    the top layer L is drawn first, the parts are those of `kl_L`, and their names end in _L.

    Args:
        model: the model.
        xs: the observations of the test set in blocks.
        num_examples: the number of examples in the test set.
        samples: the draws of the latents per example in the test. With these draws, the parts add up to `kl`.
        examples: the largest N. Of a larger test set, every second, third, ... block is used.

    Returns:
        `mutual_information` and `aggregate_kl` with their standard errors over examples, and
        `mutual_information_limit` = log N.
    """
    every = ceil(num_examples / examples)
    scored = [_first_layer(model, x, samples, index) for index, x in enumerate(xs) if index % every == 0]
    qs, tally = [layer.q for layer, _, _ in scored], Tally()
    for layer, kl, suffix in scored:
        known = identification(layer.z[0], qs)
        tally.add({f"mutual_information{suffix}": known, f"aggregate_kl{suffix}": kl - known})
    parts = [tally.means(tally.count, name) for name in tally.totals]
    found = {name: value for means in parts for name, value in means.items() if name != "num_examples"}
    return found | {"mutual_information_limit": log(tally.count)}


def _first_layer(model: Traced, x: Any, samples: int, block: int) -> tuple[Layer, Tensor, str]:
    # The layer drawn first, and the KL of all layers that know x through it alone, with the end of that KL's name.
    with torch.inference_mode(), reproducible(EVALUATION_SEED + block * BLOCK, x.device):
        traces = [model(x, samples=size) for size in repeats(samples)]
        layers = traces[0].layers
        level = range(len(layers))[model.first_drawn]
        suffix = f"_{level + 1}" if level else ""
        kls = [trace.terms()[f"kl{suffix}"] for trace in traces]
        kl = sum(size * kl.double() for size, kl in zip(repeats(samples), kls, strict=True)) / samples
        return layers[level], kl, suffix


@torch.inference_mode()
def identification(z: Tensor, qs: Sequence[Distribution]) -> Tensor:
    r"""The information of z about the example n that it was drawn for, $\sum_n q(n|z) \log N q(n|z)$, in [0, log N].

    Args:
        z: the draws, (B, ...).
        qs: q(z|x_n) of all N examples in blocks.

    Returns:
        the information of each draw in nats, (B,).
    """
    log_q = torch.cat([q.log_prob(z[:, None]).double() for q in qs], dim=1)  # (B, N)
    return log(log_q.shape[1]) - torch.special.entr(log_q.softmax(1)).sum(1)


def cluster_accuracy(clusters: Tensor, labels: Tensor) -> float:
    """The largest accuracy over all one-to-one assignments of clusters to labels, both (N,).

    The Hungarian method finds the assignment. With more clusters than labels, examples of those left over are wrong.
    """
    from scipy.optimize import linear_sum_assignment  # late, as it is slow to import

    counts = torch.zeros(int(clusters.max()) + 1, int(labels.max()) + 1, dtype=torch.int64)
    counts.index_put_((clusters, labels), torch.tensor(1), accumulate=True)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    return counts[rows, columns].sum().item() / len(labels)


def clustering(model: GMVAE, batches: Iterable[Batch]) -> dict[str, float]:
    """Return `cluster_accuracy` over the examples that have a label, or nothing if none has."""
    labels = torch.cat([batch.y.cpu() for batch in batches])
    known = labels >= 0
    if not known.any():
        return {}
    found = torch.cat([part.cpu() for part in scored(model, batches, model.clusters)])
    return {"cluster_accuracy": cluster_accuracy(found[known], labels[known])}


def bits_per_dim(nats: float, dimensions: int, offset: float) -> float:
    r"""Bits per dimension of a bound or log-likelihood b in nats per example, $-\frac{b}{D \ln 2} + \mathrm{offset}$.

    The offset is `Protocol.bits_offset`: 8 for 8-bit pixels dequantised to [0, 1), 0 for discrete pixels.
    """
    return -nats / (dimensions * log(2)) + offset


def estimate(
    model: nn.Module,
    batches: Iterable[Batch],
    num_examples: int,
    protocol: Protocol,
    means: Mapping[str, float] | None = None,
    nll_samples: int = 0,
    chunk: int = 50,
    samples: int = 1,
    mixture_examples: int = 0,
) -> dict[str, float]:
    """Estimate `active_units`, `mutual_information`, `cluster_accuracy`, `nll` and `bits_per_dim`, if the model has it.

    `bits_per_dim` is that of the bound, and `bits_per_dim_nll` that of the NLL. A model of classes has both of
    log p(x, y), and `nll_x_given_y` and the bits per dimension of log p(x|y) as well.

    A classical inference that brings its own data has none of them.

    Args:
        model: the trained model, in evaluation mode.
        batches: the data set, an iterable that can be iterated again.
        num_examples: the number of examples in the data set.
        protocol: the protocol of the data.
        means: the means of the terms over the same data set, such as `elbo`, for the bits per dimension. They may have
            the `nll` too.
        nll_samples: the draws of the latents per example for the NLL, or 0 for no NLL.
        chunk: the draws held in memory at a time.
        samples: the draws of the latents per example for the bound.
        mixture_examples: the most examples for the mutual information, or 0 for none.
    """
    if not isinstance(model, GenerativeModel):
        return {}
    found: dict[str, float] = {}
    if model.learned_inference:
        codes = torch.cat([part.cpu() for part in scored(model, batches, model.posterior_mean)])
        found["active_units"] = active_units(codes)
        found["collapsed_units"] = codes.shape[1] - found["active_units"]
    if mixture_examples and model.learned_inference and isinstance(model, Traced):
        found |= information(model, observations(model, batches), num_examples, samples, mixture_examples)
    if isinstance(model, GMVAE):
        found |= clustering(model, batches)
    if nll_samples > 0:
        found |= nll(model, batches, nll_samples, chunk, num_examples)
    known = {**(means or {}), **found}
    if "nll" in known and "log_py" in known:
        known["nll_x_given_y"] = found["nll_x_given_y"] = known["nll"] + known["log_py"]
    return found | _all_bits_per_dim(model, protocol, known)


def _all_bits_per_dim(
    model: GenerativeModel, protocol: Protocol, found: Mapping[str, float]
) -> dict[str, float]:
    offset = model.scored_as(protocol).bits_offset
    if offset is None or not model.bounded:
        return {}
    signs = {"elbo": 1, "elbo_x_given_y": 1, "nll": -1, "nll_x_given_y": -1}
    return {
        name.replace("elbo", "bits_per_dim").replace("nll", "bits_per_dim_nll"): bits_per_dim(
            sign * found[name], prod(model.x_shape), offset
        )
        for name, sign in signs.items()
        if name in found
    }
