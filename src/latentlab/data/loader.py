"""Loaders of a data set in memory: one vectorised transform makes each batch."""

from collections.abc import Iterator
from math import ceil

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Sampler, SequentialSampler

from latentlab.batch import BLOCK, Batch
from latentlab.protocols import Protocol

# The first word of a seed: unrelated streams for unrelated draws.
ORDER, NOISE, FIXED, FIRST = range(4)


def seeded(*words: int, device: torch.device | str = "cpu") -> Generator:
    """Return a private generator seeded by the words. Different words give unrelated streams."""
    (state,) = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return Generator(device).manual_seed(int(state))


class TrainingLoader:
    """Shuffled batches with fresh noise. Both depend on seed, epoch and batch alone.

    So a resumed run continues with the same batches, and the global random state is not used. A batch has
    `batch_size` examples over all ranks, the last batch of an epoch may have fewer. Rank r takes every `world`-th
    example from the r-th on, so that the steps of an optimiser do not depend on the number of ranks.

    Args:
        images: the images, uint8 (N, 1, 28, 28).
        labels: their labels, int64 (N,).
        protocol: the rule that makes x of the images.
        batch_size: the number of examples in a batch, over all ranks.
        seed: fixes order and noise.
        rank: the rank r of this process.
        world: the number of ranks.
        frozen: True to repeat the order and noise of the first epoch.
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
        self.images = images
        self.labels = labels
        self.protocol = protocol
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.batch = 0
        self.resumed = (-1, 0)
        # Lightning calls `sampler.set_epoch` before each epoch. SequentialSampler tells it that the order is fixed.
        self.sampler: TrainingLoader | Sampler[int] = SequentialSampler(labels) if frozen else self

    def __len__(self) -> int:
        return ceil(len(self.labels) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # `yield` delays this line until the first batch is taken: Lightning makes the iterator before set_epoch.
        device, epoch = self.images.device, self.epoch
        first = self.resumed[1] if self.resumed[0] == epoch else 0
        self.resumed = (-1, 0)
        order = self.order(epoch).to(device).split(self.batch_size)
        noise = Generator(device)
        for batch in range(first, len(self)):
            self.batch = batch + 1
            if self.protocol.random:
                noise = seeded(NOISE, self.seed, epoch, 0, batch, device=device)
            x = self.protocol(self.images.index_select(0, order[batch]), noise)
            yield Batch(self._share(x), self._share(self.labels.index_select(0, order[batch])))

    def _share(self, whole: Tensor) -> Tensor:
        # Every rank must take a step. One without an example in the last batch takes the first, with weight 0.
        if self.world == 1:
            return whole
        return whole[self.rank :: self.world] if len(whole) > self.rank else whole[:1]

    def weight(self, batch: int) -> float:
        r"""The weight $w_r = \text{world} \cdot n_r / n$ of the mean over this rank's $n_r$ of a batch's n examples.

        $\frac{1}{\text{world}} \sum_r w_r m_r$ is the mean over the batch, for means $m_r$ over the ranks' shares.
        """
        size = min(self.batch_size, len(self.labels) - batch * self.batch_size)
        return self.world * len(range(self.rank, size, self.world)) / size

    def order(self, epoch: int) -> Tensor:
        """The order (N,) of the examples in an epoch, the same on all ranks."""
        # Drawn on the CPU, so that it is the same on every device.
        return torch.randperm(len(self.labels), generator=seeded(ORDER, self.seed, epoch))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches of the epoch that the state has seen."""
        self.resumed = (state["epoch"], state["batch"])


class EvaluationLoader:
    """Every example once, in blocks of BLOCK: rank r holds the blocks r, r + world, r + 2 world, ..., without padding.

    Every rank has the same number of batches, because ranks wait for one another in each. A batch consists of whole
    blocks, so that draws for an example depend neither on the batch size nor on the number of ranks.

    Args:
        x: the transformed images, float32 (N, 1, 28, 28).
        y: their labels, int64 (N,).
        batch_size: the largest number of examples in a batch.
        rank: the rank r of this process.
        world: the number of ranks.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, rank: int = 0, world: int = 1) -> None:
        block = min(BLOCK, batch_size)
        self.batch_size = batch_size - batch_size % block
        shard = (torch.arange(len(y), device=y.device) // block) % world == rank
        self.x = x[shard]
        self.y = y[shard]
        blocks_of_first = ceil(ceil(len(y) / block) / world)  # the first rank holds the most
        self.num_batches = ceil(blocks_of_first * block / self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        return (Batch(self.x[i : i + self.batch_size], self.y[i : i + self.batch_size]) for i in starts)
