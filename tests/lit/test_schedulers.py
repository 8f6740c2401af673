"""Learning rates step by step against their closed forms, over the length of the training, and after a resume."""

from functools import partial
from math import cos, pi

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from test_modules import data, fit, module, trainer
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from latentlab.callbacks import BestCheckpoint
from latentlab.callbacks.resuming import ResumeState
from latentlab.errors import UserError
from latentlab.lit.schedulers import Cosine, MultiStep, OneCycle, Plateau, Step, WarmupCosine, extend

RATE = 0.2
DESCENT = partial(SGD, lr=RATE)


def rates(schedule, optimizer=DESCENT, **options):
    """The learning rate of every step of a training. An epoch has five batches."""
    made, seen = module(optimizer=partial(optimizer), scheduler=schedule), []
    made.on_before_optimizer_step = lambda optimizer: seen.append(optimizer.param_groups[0]["lr"])
    made.training_step = partial(no_loss, made)
    made.on_validation_epoch_end = lambda: None
    fit(made, **{"limit_val_batches": 0} | options)
    return seen


def no_loss(made, *batch):
    """A loss without a gradient: the weights stay."""
    return 0 * sum(p.sum() for p in made.parameters())


def cosine(time, length, least=0.0):
    return least + (RATE - least) * (1 + cos(pi * time / length)) / 2


def warm(time, warmup, length):
    return RATE * (time + 1) / (warmup + 1) if time < warmup else cosine(time - warmup, length - warmup)


def by_epoch(epochs, batches, rate):
    return [rate(epoch) for epoch in range(epochs) for _ in range(batches)]


STEPS = {"interval": "step"}
LENGTHS = {
    "epochs": (Cosine(eta_min=0.01), {"max_epochs": 3}, by_epoch(3, 5, lambda t: cosine(t, 3, 0.01))),
    "a length of one's own": (Cosine(T_max=4), {"max_epochs": 3}, by_epoch(3, 5, lambda t: cosine(t, 4))),
    "epochs of few batches": (
        Cosine(),
        {"max_epochs": 3, "limit_train_batches": 0.4},
        by_epoch(3, 2, lambda t: cosine(t, 3)),
    ),
    "steps in epochs": (  # the third epoch is cut short
        Cosine(),
        {"max_epochs": -1, "max_steps": 12},
        by_epoch(3, 5, lambda t: cosine(t, 3))[:12],
    ),
    "the smaller limit": (
        Cosine(**STEPS),
        {"max_epochs": 3, "max_steps": 7},
        [cosine(t, 7) for t in range(7)],
    ),
    "steps": (Cosine(**STEPS), {"max_epochs": 2}, [cosine(t, 10) for t in range(10)]),
    "steps of two batches": (
        Cosine(**STEPS),
        {"max_epochs": 2, "accumulate_grad_batches": 2},
        [cosine(t, 6) for t in range(6)],  # five batches: two, two and one
    ),
    "a dry run": (Cosine(**STEPS), {"fast_dev_run": 3}, [cosine(t, 3) for t in range(3)]),
    "overfitting": (
        Cosine(**STEPS),
        {"overfit_batches": 2, "max_epochs": 3},
        [cosine(t, 6) for t in range(6)],
    ),
    "a warm-up in steps": (WarmupCosine(warmup=4), {}, [warm(t, 4, 10) for t in range(10)]),
    "a warm-up's share": (WarmupCosine(warmup=0.3), {}, [warm(t, 3, 10) for t in range(10)]),
    "a warm-up in epochs": (
        WarmupCosine(interval="epoch", warmup=1),
        {"max_epochs": 3},
        by_epoch(3, 5, lambda t: warm(t, 1, 3)),
    ),
    "milestones": (
        MultiStep(milestones=(1, 2), gamma=0.5),
        {"max_epochs": 3},
        by_epoch(3, 5, lambda t: RATE * 0.5**t),
    ),
    "decays in epochs": (Step(step_size=1, gamma=0.5), {}, by_epoch(2, 5, lambda t: RATE * 0.5**t)),
    "decays in steps": (
        Step(step_size=4, gamma=0.5, **STEPS),
        {},
        [RATE * 0.5 ** (t // 4) for t in range(10)],
    ),
    "torch's cosine of older runs": (
        partial(CosineAnnealingLR, T_max=3),
        {"max_epochs": 3},
        by_epoch(3, 5, lambda t: cosine(t, 3)),
    ),
}


@pytest.mark.parametrize(("schedule", "options", "wanted"), LENGTHS.values(), ids=LENGTHS)
def test_rates_are_the_closed_form(schedule, options, wanted):
    assert rates(schedule, **options) == pytest.approx(wanted, rel=1e-12, abs=1e-15)


def test_one_cycle_is_torchs_over_the_steps_of_the_training():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = Adam([parameter], lr=1.0)
    scheduler, wanted = OneCycleLR(optimizer, 0.1, total_steps=6), []
    for _ in range(6):
        wanted.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        optimizer.step()
        scheduler.step()
    made, seen = module(scheduler=OneCycle(max_lr=0.1)), []
    made.on_before_optimizer_step = lambda optimizer: seen.append(
        (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0])
    )
    fit(made, max_epochs=2, accumulate_grad_batches=2, limit_val_batches=0)
    assert sum(seen, ()) == pytest.approx(sum(wanted, ()))


@pytest.mark.parametrize("schedule", [OneCycle(max_lr=RATE, total_steps=4), WarmupCosine(T_max=4)])
def test_the_last_rate_is_kept(schedule):
    seen = rates(schedule, partial(SGD, lr=RATE, momentum=0.9), max_epochs=2)
    assert seen[4:] == pytest.approx([min(seen)] * 6, abs=1e-6) and max(seen) > RATE / 2


def plateau(scores, few, **options):
    """The learning rate of each epoch, with validations that give these scores."""
    made, seen, left = module(optimizer=DESCENT, scheduler=Plateau(factor=0.5, patience=1)), [], list(scores)
    log = made._log_means

    def means(split):
        log(split)
        made.results["val/elbo"] = left.pop(0)

    made._log_means, made.training_step = means, partial(no_loss, made)
    made.on_train_epoch_start = lambda: seen.append(made.optimizers().param_groups[0]["lr"])
    fit(made, few, **options)
    return seen


def test_a_plateau_halves_the_rate_after_two_validations_without_improvement():
    seen = plateau([-9.0, -8.0, -8.5, -8.00005, -7.0, -9.0], data(), max_epochs=6)
    assert seen == [RATE] * 4 + [RATE / 2] * 2


def test_a_plateau_counts_validations_instead_of_epochs():
    assert plateau([-9.0] * 3, data(), max_epochs=6, check_val_every_n_epoch=2) == [RATE] * 6
    assert plateau([-9.0] * 4, data(), max_epochs=2, val_check_interval=2) == [RATE, RATE]
    assert plateau([-9.0] * 6, data(), max_epochs=2, val_check_interval=2, num_sanity_val_steps=0)[1] == RATE


def test_a_plateau_does_not_count_the_extra_validation_of_a_cut(tmp_path):
    made = module(optimizer=DESCENT, scheduler=Plateau(factor=0.5, patience=0, threshold=1e3))
    made.training_step = partial(no_loss, made)
    options = {"default_root_dir": tmp_path, "callbacks": [BestCheckpoint()], "enable_checkpointing": True}
    fit(made, data(), max_epochs=3, check_val_every_n_epoch=2, **options)
    assert made.optimizers().param_groups[0]["lr"] == RATE  # the first validation is the best so far


def test_a_plateau_watches_what_chooses_the_best_checkpoint():
    made = module(optimizer=DESCENT, scheduler=Plateau())
    made.trainer = trainer(callbacks=[BestCheckpoint("val/kl")], enable_checkpointing=True)
    assert made._watched == made.chosen_by == "val/kl"
    with pytest.raises(UserError, match=r"scheduler\.monitor=val/kl.* val/elbo"):
        made._check_plateau({"val/elbo", "train/elbo"})
    made.schedule = Plateau(monitor="train/elbo")
    with pytest.raises(UserError, match=r"scheduler\.monitor=train/elbo.* val/elbo"):
        made._check_plateau({"val/elbo", "train/elbo"})


def checked(schedule, **options):
    """Check a training as train.py does before it begins."""
    made, few, run = module(optimizer=DESCENT, scheduler=schedule), data(), trainer(**options)
    run.datamodule, few.trainer, made.trainer = few, run, run
    few.setup("fit")
    made.check_training(new=True)


REFUSED = {
    "no limit": (Cosine(), {"max_epochs": -1}, ["max_epochs", "max_steps", "scheduler.T_max"]),
    "a time": (
        OneCycle(max_lr=1.0),
        {"max_epochs": -1, "max_time": "00:00:01:00"},
        ["number of steps", "scheduler.total_steps"],
    ),
    "changing steps": (
        Cosine(**STEPS),
        {"callbacks": [GradientAccumulationScheduler({2: 4})]},
        ["scheduler.T_max"],
    ),
    "a long warm-up": (WarmupCosine(warmup=10), {}, ["scheduler.warmup=10", "10 steps"]),
    "no validation": (Plateau(), {"limit_val_batches": 0}, ["scheduler", "validation"]),
}


@pytest.mark.parametrize(("schedule", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_a_schedule_that_cannot_be_is_refused(schedule, options, words):
    with pytest.raises(UserError) as refused:
        checked(schedule, **options)
    assert [word for word in words if word not in str(refused.value)] == []


def test_a_given_length_needs_no_limit():
    checked(Cosine(T_max=5), max_epochs=-1)
    checked(WarmupCosine(T_max=5), max_epochs=-1, max_time="00:00:01:00")


@pytest.mark.parametrize(("length", "warmup"), [(1, 0), (4, 1), (30, 3)])
def test_a_share_is_a_warm_up_even_of_a_short_training(length, warmup):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    assert WarmupCosine(T_max=length).scheduler(optimizer, None).warmup == warmup


RESUMED = {
    "cosine": (Cosine, {"eta_min": 0.01}),
    "warm-up": (WarmupCosine, {"warmup": 2}),
    "one cycle": (OneCycle, {"max_lr": RATE}),
}


def run_of(kind, settings, length, optimizer):
    name = "total_steps" if kind is OneCycle else "T_max"
    return kind(**settings, **{name: length}).scheduler(optimizer, None)


def stepped(optimizer, scheduler, times):
    seen = []
    for _ in range(times):
        optimizer.step()
        scheduler.step()
        seen.append({key: optimizer.param_groups[0][key] for key in ("lr", "momentum")})
    return seen


@pytest.mark.parametrize(("kind", "settings"), RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("done", [1, 3, 4])
def test_a_longer_training_follows_the_longer_schedule(kind, settings, done):
    """From the resume on, the rates are those of an uncut run of the new length, also if the old one has ended."""

    def start(length):
        optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE, momentum=0.9)
        return optimizer, run_of(kind, settings, length, optimizer)

    optimizer, scheduler = start(4)
    stepped(optimizer, scheduler, done)
    state = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()]}
    line = extend(state, *start(9), "step")
    assert f"from step {done + 1} on" in line and "9 steps instead of 4" in line
    resumed, again = start(9)
    resumed.load_state_dict(state["optimizer_states"][0])
    again.load_state_dict(state["lr_schedulers"][0])
    wanted = stepped(*start(9), 9)
    now = {key: resumed.param_groups[0][key] for key in ("lr", "momentum")}
    assert [now, *stepped(resumed, again, 9 - done)] == wanted[done - 1 :]
    assert extend(state, *start(9), "step") == ""


class SavesAt(pl.Callback):
    """Save a checkpoint before a step."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and self.path is not None:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [4, 5, 7])
@pytest.mark.parametrize(
    "schedule",
    [
        Cosine(),
        WarmupCosine(warmup=3),
        OneCycle(max_lr=0.01),
        Step(step_size=2, interval="step"),
        Plateau(patience=0, threshold=1e3),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_resumed_run_equals_an_uncut_one(tmp_path, schedule, step):
    """Bit for bit, within an epoch of five steps and between two."""
    path, ends, seen = tmp_path / "at.ckpt", [], []
    for start in (None, path):
        made = module(scheduler=schedule)
        made.on_before_optimizer_step = lambda optimizer: seen.append(optimizer.param_groups[0]["lr"])
        torch.manual_seed(1)
        callbacks = [ResumeState(), SavesAt(step, None if start else path)]
        run = trainer(max_epochs=3, callbacks=callbacks, default_root_dir=tmp_path)
        run.fit(made, data(), ckpt_path=start, weights_only=True)
        ends.append(torch.cat([p.detach().flatten() for p in made.parameters()]))
    assert seen[15:] == seen[step:15] and len(set(seen)) > 1
    assert torch.equal(*ends)
