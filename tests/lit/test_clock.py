"""The clock of an objective counts steps, and a resumed run restores it."""

from dataclasses import dataclass, field
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from linear_gaussian import LinearGaussian
from oracles import tiny_vae
from torch.optim.lr_scheduler import ConstantLR

from latentlab.data import Digits
from latentlab.errors import UserError
from latentlab.lit import GradientModule
from latentlab.nn.mlp import MLP
from latentlab.objectives import ELBO, STL, Clock
from latentlab.protocols import Threshold


@dataclass(frozen=True)
class Timed(ELBO):
    clocks: list[Clock] = field(default_factory=list)

    def at(self, clock):
        self.clocks.append(clock)
        return self


def module_with(objective, model=None):
    network = partial(MLP, hidden=(4,))
    model = model or tiny_vae(x_shape=(1, 28, 28), encoder=network, decoder=network).float()
    return GradientModule(
        model, objective, partial(torch.optim.SGD, lr=1e-3), partial(ConstantLR, factor=1.0)
    )


def train(objective, folder, epochs, ckpt=None, **options):
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        barebones=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(
        module_with(objective), Digits(Threshold(), batch_size=300), ckpt_path=ckpt, weights_only=True
    )
    trainer.save_checkpoint(folder / "last.ckpt")


def test_the_clock_counts_steps_and_continues_after_a_resume(tmp_path):
    first, second = Timed(), Timed()
    train(first, tmp_path, epochs=2)
    train(second, tmp_path, epochs=3, ckpt=tmp_path / "last.ckpt")
    # 1257 training images in batches of 300
    # The end of a training asks for its last phase once more.
    assert first.clocks == [Clock(step, 5) for step in (*range(10), 9)]
    assert second.clocks == [Clock(step, 5) for step in (*range(10, 15), 14)]


def test_the_clock_counts_steps_of_the_optimiser(tmp_path):
    objective = Timed()
    train(objective, tmp_path, epochs=2, accumulate_grad_batches=2)
    assert [clock.step for clock in objective.clocks] == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 5]
    assert {clock.steps_per_epoch for clock in objective.clocks} == {3}


def test_an_objective_that_does_not_fit_is_refused_with_the_module():
    dropout = lambda i, o: torch.nn.Dropout(0.5)  # noqa: E731
    with pytest.raises(UserError, match="STL runs the networks twice"):
        module_with(STL(), tiny_vae(encoder=dropout))
    module_with(STL(), LinearGaussian([3, 2]))
