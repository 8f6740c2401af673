"""Skipped steps change nothing, are counted, and end the training if there are too many."""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from oracles import tiny_vae
from torch.optim.lr_scheduler import ConstantLR

from latentlab.callbacks import GradientSkip
from latentlab.data import Digits
from latentlab.errors import Diverged, UserError
from latentlab.lit import GradientModule
from latentlab.nn.mlp import MLP
from latentlab.objectives import AnalyticELBO
from latentlab.protocols import Threshold

OPTIMIZERS = {
    "adam": partial(torch.optim.Adam, lr=1e-2, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-2, fused=True),
    "adamax": partial(torch.optim.Adamax, lr=1e-2),
    "sgd": partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
}
STEPS = 4  # in an epoch


class Spoiled(pl.Callback):
    """Multiplies the gradients of some steps, and records weights and optimiser states."""

    def __init__(self, factors):
        self.factors = factors
        self.weights = []
        self.states = []

    def on_after_backward(self, trainer, pl_module):
        factor = self.factors.get(trainer.global_step, 1.0)
        for parameter in pl_module.parameters():
            parameter.grad *= factor

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append(torch.cat([p.detach().flatten().clone() for p in pl_module.parameters()]))
        states = trainer.optimizers[0].state_dict()["state"].values()
        self.states.append([torch.as_tensor(v).clone() for state in states for v in state.values()])


def fit(folder, factors, skip=None, optimizer="adam", epochs=1, ckpt_path=None, **options):
    torch.manual_seed(0)
    network = partial(MLP, hidden=(8,))
    model = tiny_vae(2, x_shape=(1, 28, 28), encoder=network, decoder=network).float()
    module = GradientModule(model, AnalyticELBO(), OPTIMIZERS[optimizer], partial(ConstantLR, factor=1.0))
    spoiled = Spoiled(factors)
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    settings |= {"enable_checkpointing": False, "use_distributed_sampler": False}
    callbacks = [spoiled, skip or GradientSkip(max_norm=1e4)]
    trainer = pl.Trainer(
        max_epochs=epochs, default_root_dir=folder, callbacks=callbacks, **settings | options
    )
    data = Digits(Threshold(), batch_size=382, val_size=1)  # 1,526 images to train on
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return spoiled, trainer


def moved(spoiled):
    """True for each step after the first that changed the weights."""
    weights = spoiled.weights
    return [not torch.equal(a, b) for a, b in pairwise(weights)]


@pytest.mark.parametrize("factor", [1e6, torch.nan, torch.inf])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_skipped_step_moves_neither_weights_nor_optimiser(tmp_path, optimizer, factor):
    spoiled, trainer = fit(tmp_path, {2: factor}, optimizer=optimizer)
    assert moved(spoiled) == [True, False, True]
    before, after = spoiled.states[1], spoiled.states[2]
    assert before and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    assert next(iter(trainer.callback_metrics)) == "train/elbo"  # which the progress shows
    assert trainer.lightning_module.results["train/skipped_steps"] == 1
    assert trainer.global_step == STEPS and spoiled.weights[-1].isfinite().all()


def test_without_large_gradients_nothing_changes(tmp_path):
    guarded, trainer = fit(tmp_path, {})
    plain, _ = fit(tmp_path, {}, skip=pl.Callback())
    assert torch.equal(guarded.weights[-1], plain.weights[-1])
    assert trainer.callback_metrics["train/skipped_steps"] == 0


def test_the_norm_is_that_before_clipping(tmp_path):
    options = {"gradient_clip_val": 0.1, "optimizer": "sgd"}
    spoiled, _ = fit(tmp_path, {1: 1e6, 2: 5.0}, **options)
    assert moved(spoiled) == [False, True, True]
    clipped, _ = fit(tmp_path, {1: 1e6, 2: 5.0}, skip=pl.Callback(), **options)
    assert moved(clipped) == [True, True, True]


def test_all_batches_of_a_step_are_skipped_together(tmp_path):
    # Two batches a step: the spoiled first one spoils their sum.
    spoiled, trainer = fit(tmp_path, {1: torch.nan}, epochs=2, accumulate_grad_batches=2)
    assert moved(spoiled) == [True, False, False, False, True, False, True]
    assert trainer.global_step == STEPS and trainer.callback_metrics["train/skipped_steps"] == 1


def test_half_precision(tmp_path):
    spoiled, _ = fit(tmp_path, {1: torch.nan}, precision="bf16-mixed")
    assert moved(spoiled) == [False, True, True]


@pytest.mark.parametrize(
    ("spoiled_steps", "window", "ends"),
    [([1, 2, 3], 3, 3), ([1, 3, 5], 3, None), ([1, 3, 5], 5, 5), ([0, 4, 7], 7, None), (range(8), 5, 2)],
)
def test_patience(tmp_path, spoiled_steps, window, ends):
    skip = GradientSkip(max_norm=1e4, patience=3, window=window)
    factors = dict.fromkeys(spoiled_steps, 1e6)
    if ends is None:
        fit(tmp_path, factors, skip, epochs=2)
        assert skip.skipped == len(factors)
        return
    with pytest.raises(
        Diverged, match=r"training diverged: 3 of the last \d steps were skipped.*max_norm=10000"
    ) as e:
        fit(tmp_path, factors, skip, epochs=2)
    assert f"step {ends};" in str(e.value) and "\n" not in str(e.value)


def test_a_bound_that_is_not_finite_ends_training(tmp_path, monkeypatch):
    monkeypatch.setattr(AnalyticELBO, "__call__", lambda self, model, x: model.terms(x)["elbo"] * torch.nan)
    with pytest.raises(Diverged, match="the bound is nan"):
        fit(tmp_path, {})


def test_a_resumed_run_continues_the_count(tmp_path):
    first = GradientSkip(max_norm=1e4, patience=3, window=8)
    _, trainer = fit(tmp_path, {1: 1e6, 3: torch.nan}, first)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = GradientSkip(max_norm=1e4, patience=3, window=8)
    with pytest.raises(Diverged, match="3 of the last 6 steps"):
        fit(tmp_path, {5: 1e6}, again, epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert again.skipped == 3


def test_refusals():
    with pytest.raises(UserError, match=r"callbacks\.skip\.patience=5 .* set callbacks\.skip\.window=5"):
        GradientSkip(patience=5, window=4)
    weights = [torch.nn.Parameter(torch.zeros(2))]
    trainer = SimpleNamespace(scaler=object(), optimizers=[torch.optim.Adam(weights, fused=True)])
    with pytest.raises(UserError, match=r"optimizer\.fused=false"):
        GradientSkip().on_train_start(trainer, None)
    trainer.optimizers = [torch.optim.Adam(weights)]
    GradientSkip().on_train_start(trainer, None)
