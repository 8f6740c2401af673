"""Exact sums over a dataset, and the estimates that are reported for a trained model."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from functools import reduce
from math import log, sqrt
from typing import Any

import torch
from torch import Tensor

from latentlab.errors import UserError
from latentlab.trace import Trace


class Tally:
    """Sums of named per-example terms in float64, so that a mean over a dataset does not depend on its batches."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.squares: dict[str, float] = {}
        self.count = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add a batch of terms, each (B,)."""
        columns = torch.stack(list(terms.values())).detach().cpu().double()  # (terms, B)
        for name, total, square in zip(
            terms, columns.sum(1).tolist(), (columns**2).sum(1).tolist(), strict=True
        ):
            self.totals[name] = self.totals.get(name, 0.0) + total
            self.squares[name] = self.squares.get(name, 0.0) + square
        self.count += columns.shape[1]

    def means(
        self,
        expected: int,
        bound: str = "elbo",
        add_ranks: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> dict[str, float]:
        r"""The mean of each term, the standard error of `bound` as `<bound>_stderr`, and `num_examples`.

        $\mathrm{stderr} = s / \sqrt n$ with the standard deviation s of the bound over examples.

        Args:
            expected: the number of examples in the dataset.
            bound: the name of the term that is the model's score.
            add_ranks: adds a float64 tensor over all ranks.

        Raises:
            UserError: if not every example was counted exactly once.
        """
        sums = add_ranks(
            torch.tensor([self.count, *self.totals.values(), *self.squares.values()], dtype=torch.float64)
        )
        count, *rest = sums.tolist()
        if count != expected:
            raise UserError(
                f"the bound was summed over {count:.0f} examples of {expected}: a report needs each exactly once "
                "(remove trainer.limit_val_batches and trainer.limit_test_batches)"
            )
        means = dict(zip(self.totals, (total / count for total in rest), strict=False))
        squares = dict(zip(self.squares, rest[len(self.totals) :], strict=True))
        variance = squares[bound] / count - means[bound] ** 2
        return {**means, f"{bound}_stderr": sqrt(max(variance, 0.0) / count), "num_examples": int(count)}


@contextmanager
def reproducible(seed: int, device: torch.device) -> Any:
    """Random draws that depend on `seed` alone, and leave the generators of CPU and `device` as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def log_likelihood(model: Callable[..., Trace], x: Any, samples: int, chunk: int = 50) -> Tensor:
    r"""The importance-weighted estimate of log p(x), $\log \frac{1}{K}\sum_k w_k$ (Burda et al. 2016, eq. 8), (B,).

    Draws `samples` latents `chunk` at a time, so that memory does not grow with their number.
    """
    sizes = [min(chunk, samples - start) for start in range(0, samples, chunk)]
    # A running sum: a list of results, allocated between the chunks, would keep the allocator from reusing their space.
    parts = (model(x, samples=size).log_w.double().logsumexp(0) for size in sizes)
    return reduce(torch.logaddexp, parts) - log(samples)


def nll(
    model: Callable[..., Trace], observations: Iterable[Tensor], samples: int, chunk: int, expected: int
) -> dict[str, float]:
    """The importance-weighted negative log-likelihood over a dataset, as `nll`, with its `nll_stderr`, in nats.

    Args:
        model: a model with a trace.
        observations: the dataset in batches.
        samples: draws of the latents per example.
        chunk: draws held in memory at a time.
        expected: the number of examples in the dataset.
    """
    tally = Tally()
    for index, x in enumerate(observations):
        with torch.inference_mode(), reproducible(index, x.device):
            tally.add({"elbo": log_likelihood(model, x, samples, chunk)})
    means = tally.means(expected)
    return {"nll": -means["elbo"], "nll_stderr": means["elbo_stderr"], "nll_samples": samples}


def active_units(means: Tensor, threshold: float = 0.01) -> int:
    r"""The number of latents with $\mathrm{Var}_x(E_{q(z|x)}[z]) > 0.01$ (Burda et al. 2016, sec. 5), means (N, D)."""
    return int((means.double().var(0) > threshold).sum())


def bits_per_dim(nats: float, dimensions: int, offset: float) -> float:
    r"""Bits per dimension of a bound (or log-likelihood) in nats per example, $-\frac{b}{D \ln 2} + \mathrm{offset}$.

    The offset is log2 of the cell's width in data units: 8 for 8-bit pixels dequantised to [0, 1), 0 for discrete ones.
    """
    return -nats / (dimensions * log(2)) + offset
