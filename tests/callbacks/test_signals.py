"""Signals end a run between two batches."""

import os
import signal
import time

import pytest
import torch
from pytorch_lightning import Callback
from toy import ToyData, ToyModule, trainer_in

from latentlab.callbacks import EMA, BestCheckpoint, Figures, LastCheckpoint, ResumeState, Signals
from latentlab.callbacks import signals as subject


class Send(Callback):
    """Sends signals to this process at a hook."""

    def __init__(self, *numbers, at="on_train_batch_end", pause=0.0):
        self.numbers, self.pause = numbers, pause
        setattr(self, at, self.send)

    def send(self, *args):
        for number in self.numbers:
            os.kill(os.getpid(), number)
            time.sleep(self.pause)
        self.numbers = ()


@pytest.fixture(autouse=True)
def no_nohup():
    """Under nohup, the tests would ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def fit(folder, *callbacks, epochs=2, **options):
    handlers = {number: signal.getsignal(number) for number in subject.NUMBERS}
    torch.manual_seed(0)
    trainer = trainer_in(
        folder, [*callbacks, ResumeState(), LastCheckpoint(), Signals()], epochs=epochs, **options
    )
    trainer.fit(ToyModule(), ToyData())
    assert {number: signal.getsignal(number) for number in subject.NUMBERS} == handlers


def saved(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("number", subject.NUMBERS)
def test_a_signal_saves_after_the_batch_and_ends_with_its_status(tmp_path, number):
    with pytest.raises(SystemExit) as end:
        fit(tmp_path, Send(number))
    assert end.value.code == 128 + number
    assert saved(tmp_path)["global_step"] == 1


def test_accumulated_gradients_are_used_first(tmp_path):
    with pytest.raises(SystemExit):
        fit(tmp_path, Send(signal.SIGTERM), accumulate_grad_batches=3)
    progress = saved(tmp_path)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress["processed"] == 3


def test_a_signal_within_a_validation_saves_the_trained_weights(tmp_path):
    with pytest.raises(SystemExit):
        fit(tmp_path, EMA(0.5), Send(signal.SIGTERM, at="on_validation_batch_end"))
    state = saved(tmp_path)
    assert state["global_step"] == 4 and state["callbacks"]["EMA"]["latest_update_step"] == 4
    average, trained = (
        torch.cat([v.flatten() for v in state[name].values()])
        for name in ("state_dict", "current_model_state")
    )
    torch.manual_seed(0)
    module = ToyModule()
    trainer_in(tmp_path / "plain", epochs=1).fit(module, ToyData())
    assert torch.equal(trained, torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert not torch.equal(trained, average)


@pytest.mark.parametrize("at", ["on_validation_start", "on_validation_batch_end"])
@pytest.mark.parametrize("steps", [4, 6])  # an epoch has four steps
def test_a_signal_after_the_last_step_waits_for_its_validation(tmp_path, at, steps):
    """Nothing else would validate: a run resumed after its last step trains no further."""

    class AtTheEnd(Send):
        def send(self, trainer, *args):
            if trainer.global_step == steps:
                super().send()

    limits = {"epochs": -1, "max_steps": steps}
    with pytest.raises(SystemExit) as end:
        fit(tmp_path, AtTheEnd(signal.SIGTERM, at=at), BestCheckpoint(), **limits)
    assert end.value.code == 143
    best = BestCheckpoint()
    trainer = trainer_in(tmp_path, [ResumeState(), best, LastCheckpoint(), Signals()], **limits)
    trainer.fit(ToyModule(), ToyData(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert (trainer.global_step, best.best_step) == (steps, steps)


def test_two_copies_of_a_signal_are_one_and_a_later_one_ends_at_once(tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        fit(tmp_path / "copies", Send(signal.SIGINT, signal.SIGINT))
    assert saved(tmp_path / "copies")["global_step"] == 1
    monkeypatch.setattr(subject, "TOGETHER", 0.01)
    with pytest.raises(SystemExit) as end:
        fit(tmp_path / "two", Send(signal.SIGTERM, signal.SIGINT, pause=0.05))
    assert end.value.code == 130
    assert not (tmp_path / "two" / "checkpoints").exists()


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fit(tmp_path, Send(signal.SIGHUP), epochs=1)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_ends_the_drawing_and_the_epoch_counts(tmp_path):
    drawn = []

    def slow(model, data):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        drawn.append(1)

    with pytest.raises(SystemExit) as end:
        fit(tmp_path, Figures(1, one=slow, two=slow), epochs=3)
    assert end.value.code == 143 and drawn == []
    assert saved(tmp_path)["epoch"] == 0 and saved(tmp_path)["global_step"] == 4


def test_checkpoints_by_time(tmp_path):
    """Each batch takes longer than the time between two checkpoints."""
    written = []

    class Note(Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            written.append(trainer.global_step)

    for every, expected in [(1e-9, [0, 1, 2, 3, 4]), (None, [4])]:
        written.clear()
        trainer = trainer_in(tmp_path / str(every), [Note(), LastCheckpoint(every)], epochs=1)
        trainer.fit(ToyModule(), ToyData())
        assert written == expected
