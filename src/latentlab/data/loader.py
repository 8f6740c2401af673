"""Loaders over a data set in memory: a batch is an index and one vectorised transform."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import ceil

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Sampler, SequentialSampler

from latentlab.batch import BLOCK, Batch
from latentlab.protocols import Protocol

ORDER, NOISE, FIXED, FIRST = range(4)


def seeded(*words: int, device: torch.device | str = "cpu") -> Generator:
    """A private generator whose stream is fixed by the words; different words give unrelated streams."""
    (state,) = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return Generator(device).manual_seed(int(state))


class TensorLoader(ABC):
    """An iterable of batches, on one of `world` ranks; every rank yields the same number of batches."""

    def __init__(self, batch_size: int, rank: int, world: int) -> None:
        self.batch_size = batch_size
        self.rank = rank
        self.world = world

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """How many batches one epoch has, on this rank and on every other."""


class TrainingLoader(TensorLoader):
    """Shuffled batches with fresh noise, both functions of (seed, epoch, batch) and of nothing else.

    Epoch k is therefore the same after a resumption as without one, in the middle of an epoch too, and the
    global random state is left alone. A batch is that of all ranks together: it has `batch_size` examples, the
    last may be short, and rank r takes every `world`-th of them from the r-th on. So every example is seen once an
    epoch, and the steps of an optimiser are over the same examples on any number of ranks. images: uint8 (N, 1, 28,
    28); labels: int64 (N,). With `frozen`, every epoch has the order and the noise of the first (to overfit a few
    batches).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        protocol: Protocol,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        frozen: bool = False,
    ) -> None:
        super().__init__(batch_size, rank, world)
        self.images = images
        self.labels = labels
        self.protocol = protocol
        self.seed = seed
        self.epoch = 0
        self.batch = 0
        self.resumed = (-1, 0)
        # Lightning calls `sampler.set_epoch` before each epoch; SequentialSampler means a fixed order to it.
        self.sampler: TrainingLoader | Sampler[int] = SequentialSampler(labels) if frozen else self

    def __len__(self) -> int:
        return ceil(len(self.labels) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that the epoch is read with the first batch: Lightning makes the first iterator
        # before it calls set_epoch.
        device, epoch = self.images.device, self.epoch
        first = self.resumed[1] if self.resumed[0] == epoch else 0
        self.resumed = (-1, 0)
        order = self.order(epoch).to(device).split(self.batch_size)
        for batch in range(first, len(self)):
            self.batch = batch + 1
            noise = seeded(NOISE, self.seed, epoch, 0, batch, device=device)
            x = self.protocol(self.images.index_select(0, order[batch]), noise)
            yield Batch(self._share(x), self._share(self.labels.index_select(0, order[batch])))

    def _share(self, whole: Tensor) -> Tensor:
        # Every rank takes a step: one for which the last batch has no example takes another's, with weight 0.
        return whole[self.rank :: self.world] if len(whole) > self.rank else whole[:1]

    def weight(self, batch: int) -> float:
        r"""The weight $w_r = \text{world} \cdot n_r / n$ of the mean over this rank's $n_r$ of a batch's n examples.

        $\frac{1}{\text{world}} \sum_r w_r m_r$ is the mean over the batch, for means $m_r$ over the ranks' shares.
        """
        size = min(self.batch_size, len(self.labels) - batch * self.batch_size)
        return self.world * len(range(self.rank, size, self.world)) / size

    def order(self, epoch: int) -> Tensor:
        """The indices (N,) of an epoch's examples in their order, the same on all ranks."""
        # Drawn on the CPU, so that the order is the same on every device.
        return torch.randperm(len(self.labels), generator=seeded(ORDER, self.seed, epoch))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch, which Lightning keeps in its checkpoints."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a place: the next iteration of that epoch skips the batches already seen."""
        self.resumed = (state["epoch"], state["batch"])


class EvaluationLoader(TensorLoader):
    """Every example once, in blocks of BLOCK: rank r holds the blocks r, r + world, r + 2 world, ..., without padding.

    The shard is cut into equally many batches on every rank (what needs all ranks at once would wait for ever
    otherwise), of at most `batch_size` and whole blocks, so that what is drawn for an example depends neither on
    the batch size nor on the number of ranks. x: float32 (N, 1, 28, 28), already transformed; y: int64 (N,).
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, rank: int = 0, world: int = 1) -> None:
        block = min(BLOCK, batch_size)
        super().__init__(batch_size - batch_size % block, rank, world)
        shard = (torch.arange(len(y), device=y.device) // block) % world == rank
        self.x = x[shard]
        self.y = y[shard]
        # The first rank holds the most.
        blocks_of_first = ceil(ceil(len(y) / block) / world)
        self.num_batches = ceil(blocks_of_first * block / self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        return (Batch(self.x[i : i + self.batch_size], self.y[i : i + self.batch_size]) for i in starts)
