"""A short step gives what Lightning's step gives: the same weights, counts, metrics and calls of hooks."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from oracles import tiny_vae
from torch.optim.lr_scheduler import CosineAnnealingLR

from latentlab.callbacks.ending import EpochLoop
from latentlab.data import Digits
from latentlab.lit import GradientModule, epoch_loop
from latentlab.lit.schedulers import OneCycle
from latentlab.nn.mlp import MLP
from latentlab.objectives import ELBO
from latentlab.protocols import Dynamic, Threshold

HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)

COSINE = partial(CosineAnnealingLR, T_max=2)


class Witness(pl.Callback):
    """Notes each call of a hook, and logs a value in two of them."""

    def __init__(self):
        self.calls = []

    def setup(self, trainer, pl_module, stage):
        EpochLoop.install(trainer)

    def called(self, name, trainer, module, *arguments):
        batches = [argument for argument in arguments if isinstance(argument, int)]
        self.calls.append((name, module._current_fx_name, trainer.global_step, *batches))
        if name == "on_train_batch_end" and "loss" in arguments[0]:
            module.log("loss", arguments[0]["loss"], on_step=True, on_epoch=True)


for hook in HOOKS:
    setattr(
        Witness,
        hook,
        lambda self, trainer, module, *arguments, name=hook: self.called(name, trainer, module, *arguments),
    )


def state(value):
    """The numbers in nested dicts and lists, comparable with ==."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: state(each) for key, each in value.items()}
    return [state(each) for each in value] if isinstance(value, list | tuple) else value


def fit(scheduler=COSINE, kind=GradientModule, **options):
    torch.manual_seed(0)
    network = partial(MLP, hidden=(4,))
    model = tiny_vae(x_shape=(1, 28, 28), encoder=network, decoder=network).float()
    module = kind(model, ELBO(), partial(torch.optim.Adam, lr=1e-3), scheduler)
    witness = Witness()
    quiet = dict.fromkeys(
        ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False
    )
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        log_every_n_steps=2,
        num_sanity_val_steps=0,
        callbacks=[witness],
        **quiet,
        **options,
    )
    trainer.fit(module, Digits(Dynamic(), batch_size=300))
    return {
        "weights": state(model.state_dict()),
        "optimiser": state(trainer.optimizers[0].state_dict()),
        "counts": trainer.fit_loop.state_dict(),
        "metrics": state(trainer.callback_metrics),
        "calls": witness.calls,
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": 0.5, "val_check_interval": 2},
        {"max_steps": 7, "scheduler": OneCycle(max_lr=0.01, interval="step")},
    ],
    ids=["plain", "clipped", "steps"],
)
def test_a_short_step_equals_lightnings(options, monkeypatch):
    short = fit(**options)
    monkeypatch.setattr(epoch_loop, "takes_short_steps", lambda trainer: False)
    assert short == fit(**options)
    assert {name for name, *_ in short["calls"]} == set(HOOKS)


class Dictionary(GradientModule):
    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "extra": 1.0}


class Skipping(GradientModule):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if batch_idx == 1 else None


def test_a_step_of_a_user_may_return_a_dict_or_nothing():
    plain, dictionary = fit(), fit(kind=Dictionary)
    assert dictionary == plain
    with pytest.warns(UserWarning, match="returned `None`"):
        skipping = fit(kind=Skipping)
    taken = [name for name, *_ in skipping["calls"]].count("on_after_backward")
    assert taken == 2  # one batch in each of two epochs
    assert skipping["weights"] != plain["weights"]


class Overriding(GradientModule):
    def optimizer_step(self, *arguments, **keywords):
        super().optimizer_step(*arguments, **keywords)


@pytest.mark.parametrize(
    ("kind", "options", "short"),
    [
        (GradientModule, {}, True),
        (Overriding, {}, False),
        (Dictionary, {}, False),
        (GradientModule, {"accumulate_grad_batches": 2}, False),
        (GradientModule, {"precision": "bf16-mixed"}, False),
        (GradientModule, {"profiler": "simple"}, False),
    ],
)
def test_other_steps_are_lightnings(kind, options, short):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
    module = kind(tiny_vae(), ELBO(), partial(torch.optim.SGD, lr=1.0), COSINE)
    trainer.strategy.connect(module)
    trainer.datamodule = Digits(Threshold())
    assert epoch_loop.takes_short_steps(trainer) == short


def test_another_release_of_lightning_takes_its_own_steps(monkeypatch):
    expected, shorts = fit(), []
    takes = epoch_loop.takes_short_steps
    monkeypatch.setattr(pl, "__version__", "2.7.0")
    monkeypatch.setattr(
        epoch_loop, "takes_short_steps", lambda trainer: shorts.append(takes(trainer)) or shorts[-1]
    )
    assert fit() == expected
    assert shorts == [False, False]
