"""Order, noise and shards of the loaders, alone and under Lightning's Trainer."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from latentlab.batch import BLOCK, Batch, blocks
from latentlab.data import EvaluationLoader, TrainingLoader
from latentlab.protocols import Dequantised

N = 103


def training(
    batch_size: int = 20, seed: int = 0, rank: int = 0, world: int = 1, frozen: bool = False
) -> TrainingLoader:
    images = torch.arange(N, dtype=torch.uint8).view(N, 1, 1, 1).expand(N, 1, 2, 2).contiguous()
    return TrainingLoader(images, torch.arange(N), Dequantised(), batch_size, seed, rank, world, frozen)


def epoch(loader: TrainingLoader, number: int = 0) -> Batch:
    loader.set_epoch(number)
    return Batch(*(torch.cat(parts) for parts in zip(*loader, strict=True)))


def test_an_epoch_holds_every_example_once_and_the_image_of_its_label() -> None:
    loader = training()
    x, y = epoch(loader)
    assert sorted(y.tolist()) == list(range(N))
    assert torch.equal((x[:, 0, 0, 0] * 256).floor().long(), y)
    assert [len(batch.y) for batch in loader] == [20, 20, 20, 20, 20, 3]
    assert len(loader) == 6


def test_epochs_differ_and_repeat_under_the_same_seed() -> None:
    first, again = epoch(training(), 5), epoch(training(), 5)
    assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
    for other in (epoch(training(), 6), epoch(training(seed=1), 5)):
        assert not torch.equal(first.y, other.y)
        noise, noise_other = first.x[first.y.argsort()], other.x[other.y.argsort()]
        assert not torch.isclose(noise, noise_other, rtol=0, atol=1e-7).all(dim=(1, 2, 3)).any()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [20, 34, 51])  # last batches of 3, 1 and 1 of the 103 examples
def test_ranks_share_the_batches_of_one_process(world: int, batch_size: int) -> None:
    """The weighted means of the ranks average to the mean over each batch, also if a rank has no example."""
    whole = list(training(batch_size))
    loaders = [training(batch_size, rank=rank, world=world) for rank in range(world)]
    shares = [list(loader) for loader in loaders]
    assert {len(share) for share in shares} == {len(whole)} == {len(loader) for loader in loaders}
    for index, batch in enumerate(whole):
        weights = [loader.weight(index) for loader in loaders]
        parts = [share[index] for share, weight in zip(shares, weights, strict=True) if weight]
        assert all(len(share[index].y) for share in shares)
        y = torch.cat([part.y for part in parts])
        assert torch.equal(y.sort().values, batch.y.sort().values)
        assert torch.equal(torch.cat([part.x for part in parts])[y.argsort()], batch.x[batch.y.argsort()])
        means = [w * s[index].y.double().mean() for w, s in zip(weights, shares, strict=True)]
        assert sum(means) / world == pytest.approx(batch.y.double().mean().item(), rel=1e-12)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_are_whole_blocks_in_turn(world: int) -> None:
    x = torch.rand(230, 1, 2, 2)
    for rank in range(world):
        loader = EvaluationLoader(x, torch.arange(230), 100, rank, world)
        parts = [block.y for batch in loader for block in blocks(batch)]
        starts = [int(part[0]) for part in parts]
        assert starts == list(range(rank * BLOCK, 230, world * BLOCK))
        assert all(len(part) == min(BLOCK, 230 - start) for part, start in zip(parts, starts, strict=True))


@pytest.mark.parametrize("n", [7, 51, 103])
@pytest.mark.parametrize("batch_size", [2, 25, 50, 1000])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_hold_every_example_once_in_equally_many_batches(n: int, batch_size: int, world: int) -> None:
    x = torch.rand(n, 1, 2, 2)
    loaders = [EvaluationLoader(x, torch.arange(n), batch_size, rank, world) for rank in range(world)]
    batches = [list(loader) for loader in loaders]
    assert len({len(shard) for shard in batches}) == 1
    assert all(len(loader) == len(shard) for loader, shard in zip(loaders, batches, strict=True))
    assert all(len(batch.y) <= batch_size for shard in batches for batch in shard)
    y = torch.cat([batch.y for shard in batches for batch in shard])
    assert sorted(y.tolist()) == list(range(n))
    assert torch.equal(torch.cat([batch.x for shard in batches for batch in shard]), x[y])


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    epoch(training())
    list(EvaluationLoader(torch.rand(5, 1, 2, 2, generator=torch.Generator()), torch.arange(5), 2))
    assert torch.equal(torch.get_rng_state(), before)


class Recorder(pl.LightningModule):
    """Records its batches, and can stop in the middle of an epoch."""

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []
        self.stop_at = stop_at

    def training_step(self, batch: Batch) -> Tensor:
        if self.global_step == self.stop_at:
            raise InterruptedError
        assert type(batch) is Batch
        self.seen.append(batch.x.flatten())
        return self.weight.square()

    def validation_step(self, batch: Batch) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, **kwargs: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **kwargs)


def fit(
    folder: Path, epochs: int, checkpoint: ModelCheckpoint, resume: Path | None = None, stop: int = -1
) -> Tensor:
    model = Recorder(stop)
    validation = EvaluationLoader(torch.rand(4, 1, 2, 2), torch.arange(4), 2)
    run = trainer(folder, max_epochs=epochs, callbacks=[checkpoint])
    try:
        run.fit(model, training(), validation, ckpt_path=resume)
    except InterruptedError:
        assert stop >= 0
    return torch.cat(model.seen)


EXPECTED = [epoch(training(), number).x.flatten() for number in range(4)]


resumes_in_place = pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")


@resumes_in_place
@pytest.mark.parametrize("on_train_epoch_end", [True, False])
def test_the_trainer_sets_the_epoch_and_a_resumed_run_starts_the_next(
    tmp_path: Path, on_train_epoch_end: bool
) -> None:
    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=on_train_epoch_end)

    assert torch.equal(fit(tmp_path, 2, checkpoint()), torch.cat(EXPECTED[:2]))
    resumed = fit(tmp_path, 4, checkpoint(), resume=tmp_path / "last.ckpt")
    assert torch.equal(resumed, torch.cat(EXPECTED[2:]))


@resumes_in_place
def test_a_run_stopped_within_an_epoch_resumes_at_the_next_batch(tmp_path: Path) -> None:
    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, every_n_train_steps=2, save_last=True)

    first = fit(tmp_path, 3, checkpoint(), stop=9)
    torch.load(tmp_path / "last.ckpt", weights_only=True)  # its state is plain numbers
    # The run stopped after 9 steps. The checkpoint is of the 8th, the second of epoch 1.
    second = fit(tmp_path, 3, checkpoint(), resume=tmp_path / "last.ckpt")
    whole = torch.cat(EXPECTED[:3])
    cut = EXPECTED[0].numel() + 2 * 20 * 4
    assert torch.equal(first, whole[: cut + 20 * 4])
    assert torch.equal(second, whole[cut:])


def test_overfitting_repeats_the_same_batches_without_a_warning(tmp_path: Path) -> None:
    model, validation = Recorder(), EvaluationLoader(torch.rand(4, 1, 2, 2), torch.arange(4), 2)
    run = trainer(tmp_path, max_epochs=3, overfit_batches=2, enable_checkpointing=False)
    run.fit(model, training(frozen=True), validation)
    expected = EXPECTED[0][: 40 * 4]
    assert torch.equal(torch.cat(model.seen), torch.cat([expected] * 3))
