"""Splits, fixed draws and refusals, on the digits."""

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from latentlab.batch import BLOCK, Batch
from latentlab.data import Digits, EvaluationLoader, ImageData, Images, Splits, StaticMNIST, TorchvisionData
from latentlab.errors import UserError
from latentlab.protocols import Continuous, Dequantised, Dynamic, Protocol, Static, Threshold


def whole(loader: EvaluationLoader | list[EvaluationLoader]) -> Tensor:
    assert isinstance(loader, EvaluationLoader)
    return torch.cat([batch.x for batch in loader])


def test_the_digits_are_split_once_whatever_the_seed() -> None:
    data, other = Digits(Continuous(), seed=0), Digits(Continuous(), seed=7)
    assert data.num_examples == {"train": 1257, "val": 270, "test": 270}
    keys = [set(map(bytes, split.x.flatten(1).numpy())) for split in (data.train, data.val, data.test)]
    assert sum(map(len, keys)) == len(keys[0] | keys[1] | keys[2])  # no image is in two splits
    for split in ("train", "val", "test"):
        split_of: tuple[Images, Images] = getattr(data, split), getattr(other, split)
        assert all(torch.equal(a, b) for a, b in zip(*split_of, strict=True))


def test_images_and_labels_have_the_promised_shapes() -> None:
    data = Digits(Threshold())
    for split in ("train", "val", "test"):
        batch = next(iter(getattr(data, f"{split}_dataloader")()))
        assert isinstance(batch, Batch)
        x, y = batch
        assert x.shape[1:] == data.shape and x.dtype == torch.float32
        assert y.shape == x.shape[:1] and y.dtype == torch.int64
        assert set(y.tolist()) <= set(range(10))


def test_without_validation_all_but_the_test_images_are_for_training() -> None:
    data = Digits(Threshold(), val_size=0)
    assert data.num_examples == {"train": 1527, "val": 0, "test": 270}
    assert data.val_dataloader() == []
    assert torch.equal(data.test.x, Digits(Threshold()).test.x)


class Blank(ImageData):
    """A new data set is a class with a name and `read`."""

    name = "Blank"

    def read(self) -> Splits:
        images = Images(torch.zeros(8, 1, 28, 28, dtype=torch.uint8), torch.arange(8))
        return Splits(train=images, test=images)


def test_a_new_data_set_has_all_settings_splits_and_samples() -> None:
    data = Blank(Threshold(), val_size=3, batch_size=4)
    assert data.num_examples == {"train": 5, "val": 3, "test": 8} and data.num_classes == 8
    assert [len(batch.y) for batch in data.training_set()] == [4, 1]
    sample = data.training_sample(3)
    assert len(set(sample.y.tolist())) == 3 and torch.equal(sample.y, data.training_sample(3).y)
    assert data.training_sample(100).x.shape == (5, 1, 28, 28)
    with pytest.raises(TypeError, match="batchsize"):
        Blank(Threshold(), batchsize=4)  # type: ignore[call-arg]


def test_a_set_is_read_once() -> None:
    data = Digits(Threshold())
    data.setup("fit")
    images = data.train.x
    data.setup("test")
    assert data.train.x is images


@pytest.mark.parametrize("protocol", [Dynamic(), Dequantised()], ids=lambda protocol: protocol.name)
def test_the_fixed_draw_depends_on_nothing_but_its_own_seed(protocol: Protocol) -> None:
    reference = Digits(protocol)
    other = Digits(protocol, seed=3, batch_size=7, eval_batch_size=11)
    for split in ("val_dataloader", "test_dataloader"):
        draw = whole(getattr(reference, split)())
        assert torch.equal(draw, whole(getattr(reference, split)()))
        assert torch.equal(draw, whole(getattr(other, split)()))
        assert not torch.equal(draw, whole(getattr(Digits(protocol, draw_seed=1), split)()))
    x = reference.protocol(reference.test.x, torch.Generator().manual_seed(0))
    assert not torch.equal(x, whole(reference.test_dataloader()))


def test_ranks_share_one_fixed_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Digits(Dynamic(), eval_batch_size=50)
    draw = whole(data.test_dataloader())
    blocks = draw.split(BLOCK)
    for rank in range(2):
        monkeypatch.setattr(Digits, "_rank_world", (rank, 2))
        assert torch.equal(whole(data.test_dataloader()), torch.cat(blocks[rank::2]))
        assert torch.equal(whole(data.whole_test_set()), draw)


def test_a_batch_is_that_of_all_devices_or_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "_rank_world", (1, 3))
    assert [len(batch.y) for batch in Digits(Threshold(), batch_size=100).train_dataloader()][:2] == [33, 33]
    data = Digits(Threshold(), batch_size_per_device=100)
    assert data.total_batch_size == 300
    assert len(next(iter(data.train_dataloader())).y) == 100
    with pytest.raises(
        UserError, match=r"^data.batch_size=2 is the total over 3 devices.*batch_size_per_device$"
    ):
        Digits(Threshold(), batch_size=2).train_dataloader()


def test_the_draws_have_the_mean_of_the_grey_levels() -> None:
    data = Digits(Dynamic())
    p = data.test.x.double() / 255
    z = (whole(data.test_dataloader()).double() - p).sum() / (p * (1 - p)).sum().sqrt()
    assert z.abs() < 4  # fails by chance once in 16,000 draws, and the draw is fixed


@pytest.mark.parametrize("val_size", [1527, 5000])
def test_a_validation_set_that_leaves_nothing_is_refused(val_size: int) -> None:
    with pytest.raises(
        UserError, match=rf"^data.val_size={val_size} leaves nothing to train on: .* 1527 images$"
    ):
        Digits(Threshold(), val_size=val_size).setup()


def test_a_protocol_that_contradicts_its_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^protocol=static does not fit MNIST, stored as grey levels: use threshold"
    ):
        TorchvisionData(Static(), tmp_path)
    with pytest.raises(UserError, match=r"^protocol=dynamic does not fit Static MNIST.*use static$"):
        StaticMNIST(Dynamic(), tmp_path)


class Counter(pl.LightningModule):
    """Counts the examples of each split."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.counts = {"train": 0, "val": 0, "test": 0}

    def training_step(self, batch: Batch) -> Tensor:
        self.counts["train"] += len(batch.y)
        return self.weight.square()

    def validation_step(self, batch: Batch) -> None:
        self.counts["val"] += len(batch.y)

    def test_step(self, batch: Batch) -> None:
        self.counts["test"] += len(batch.y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("val_size", [0, 270])
def test_the_trainer_sees_every_example_once_and_skips_a_missing_validation(
    tmp_path: Path, val_size: int
) -> None:
    data, model = Digits(Threshold(), val_size=val_size), Counter()
    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, max_epochs=1, num_sanity_val_steps=0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    assert trainer.enable_validation == (val_size > 0)
    trainer.test(model, data, verbose=False)
    assert model.counts == data.num_examples


def test_overfitting_freezes_the_order(tmp_path: Path) -> None:
    data = Digits(Threshold())
    data.trainer = pl.Trainer(accelerator="cpu", overfit_batches=1, logger=False, default_root_dir=tmp_path)
    loader = data.train_dataloader()
    assert loader.sampler is not loader


def test_the_messages_are_one_line() -> None:
    with pytest.raises(UserError) as caught:
        Digits(Static())
    assert re.fullmatch(r"[^\n]+", str(caught.value))
