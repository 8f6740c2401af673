"""The moving average of the weights is validated, saved, drawn, tested and resumed."""

import pytest
import torch
from pytorch_lightning import Callback
from toy import ToyData, ToyModule, trainer_in

from latentlab.callbacks import EMA, BestCheckpoint, Figures, LastCheckpoint, ResumeState

DECAY = 0.6


class Watch(Callback):
    """Keeps the weights after each step and in each validation and test."""

    def __init__(self):
        self.trained, self.validated, self.tested = [], [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.trained.append(weights(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, *_):
        self.validated.append(weights(pl_module))

    def on_test_batch_start(self, trainer, pl_module, *_):
        self.tested.append(weights(pl_module))


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def by_hand(trained):
    average = trained[0]
    for n, current in enumerate(trained[1:], start=1):
        decay = min(DECAY, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * current
    return average


def saved(path, key="state_dict"):
    state = torch.load(path, weights_only=True)[key]
    return torch.cat([value.flatten() for value in state.values()])


def run(folder, epochs, module=None, ckpt=None, extra=()):
    torch.manual_seed(0)
    watch = Watch()
    callbacks = [EMA(DECAY), watch, *extra, ResumeState(), BestCheckpoint(), LastCheckpoint()]
    module = module or ToyModule()
    trainer = trainer_in(folder, callbacks, epochs=epochs)
    trainer.fit(module, ToyData(), ckpt_path=ckpt, weights_only=True)
    return module, trainer, watch


def test_the_average_is_validated_saved_drawn_and_tested(tmp_path):
    drawn = []
    figures = Figures(1, seen=lambda model, data: drawn.append(weights(model)))
    module, trainer, watch = run(tmp_path, 3, extra=[figures])
    per_epoch = [by_hand(watch.trained[: 4 * epoch]) for epoch in (1, 2, 3)]
    torch.testing.assert_close(torch.stack(watch.validated[::4]), torch.stack(per_epoch))
    torch.testing.assert_close(torch.stack(drawn), torch.stack(per_epoch))
    last = tmp_path / "checkpoints" / "last.ckpt"
    torch.testing.assert_close(saved(last), per_epoch[-1])
    assert torch.equal(saved(last, "current_model_state"), watch.trained[-1])
    torch.testing.assert_close(weights(module), per_epoch[-1])
    # The same trainer then tests the best epoch, whose checkpoint holds the trained weights too.
    best = tmp_path / "checkpoints" / "best.ckpt"
    trainer.test(module, ToyData(), ckpt_path=best, weights_only=True, verbose=False)
    assert torch.equal(watch.tested[0], saved(best))
    assert torch.equal(drawn[-1], saved(best))
    assert (watch.trained[-1] - per_epoch[-1]).abs().max() > 1e-4


def test_a_resumed_run_is_the_run_that_was_not_cut_off(tmp_path):
    _, _, whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    _, _, resumed = run(tmp_path / "parts", 4, ckpt=last)
    assert torch.equal(resumed.trained[-1], whole.trained[-1])
    for key in ("state_dict", "current_model_state"):
        assert torch.equal(saved(last, key), saved(tmp_path / "whole" / "checkpoints" / "last.ckpt", key))


class FailsInValidation(ToyModule):
    def validation_step(self, batch, batch_idx):
        raise RuntimeError("on purpose")


def test_a_validation_that_is_cut_short_leaves_the_trained_weights_to_go_on_from(tmp_path):
    module, watch = FailsInValidation(), Watch()
    trainer = trainer_in(tmp_path, [EMA(DECAY), watch, LastCheckpoint()])
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer.fit(module, ToyData())
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.equal(saved(last, "current_model_state"), watch.trained[-1])
    torch.testing.assert_close(saved(last), by_hand(watch.trained))
    assert torch.equal(weights(module), watch.trained[-1])


def test_the_average_of_a_short_run_forgets_its_start():
    ema = EMA(decay=0.999)
    average, ones = [torch.zeros(2)], [torch.ones(2)]
    for n in range(1, 30):
        ema._average(average, ones, torch.tensor(n))
    assert average[0].min() > 0.99
