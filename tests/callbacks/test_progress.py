"""Progress on a terminal and in a log, and the clock of training."""

import logging
import sys
from time import perf_counter, sleep
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback
from toy import Batch, ToyData, ToyModule, trainer_in

from latentlab.callbacks import Progress, Timing


def fit(folder, callbacks, **options):
    torch.manual_seed(0)
    trainer = trainer_in(folder, callbacks, **options)
    trainer.fit(ToyModule(), ToyData())
    return trainer


def test_a_line_an_epoch_in_a_log(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="latentlab"):
        fit(tmp_path, [Progress()], epochs=3)
    lines = [record.message for record in caplog.records if record.name.startswith("latentlab")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("train elbo -" in line and "val elbo -" in line and "examples/s" in line for line in lines)


def test_an_old_validation_is_not_shown_as_new(tmp_path, caplog, capsys, monkeypatch):
    with caplog.at_level(logging.INFO, logger="latentlab"):
        fit(tmp_path, [Progress()], epochs=4, check_val_every_n_epoch=2)
    lines = [record.message for record in caplog.records if record.name.startswith("latentlab")]
    assert ["val" in line for line in lines] == [False, True, False, True]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(tmp_path, [Progress(refresh_seconds=1e-9)], epochs=2)
    shown = capsys.readouterr().err.split("\r")
    assert any("epoch 2/2" in line and "val elbo -" in line and "(epoch 1)" in line for line in shown)
    assert "(epoch" not in shown[-1]


def test_an_old_training_bound_is_not_shown_as_new(tmp_path, caplog, capsys):
    class Sparse(ToyModule):
        def log(self, name, *args, **more):
            if name != "train/elbo" or self.current_epoch % 2 == 0:
                super().log(name, *args, **more)

    with caplog.at_level(logging.INFO, logger="latentlab"):
        trainer_in(tmp_path, [Progress()], epochs=3).fit(Sparse(), ToyData())
    lines = [record.message for record in caplog.records if record.name.startswith("latentlab")]
    assert ["train elbo" in line for line in lines] == [True, False, True]


def test_a_bar_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(tmp_path, [Progress(refresh_seconds=1e-9)], epochs=2)
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "epoch 2/2" in shown and "━" in shown
    assert "train elbo -" in shown and "val elbo -" in shown and "examples/s" in shown


class Output:
    """The output of a notebook's cell, in place of IPython's."""

    def __init__(self):
        self.texts = []

    def show(self, data, raw, display_id=None):
        self.texts.append(data["text/plain"])
        return SimpleNamespace(update=self.show)


def test_a_notebook_gets_one_line_that_is_replaced(tmp_path, monkeypatch, caplog):
    output = Output()
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=output.show))
    with caplog.at_level(logging.INFO, logger="latentlab"):
        fit(tmp_path, [Progress(refresh_seconds=1e-9)], epochs=2)
    assert output.texts[-1].startswith("epoch 2/2  100%") and "val elbo -" in output.texts[-1]
    assert [record.shown for record in caplog.records if record.name.startswith("latentlab")] == [True, True]


def test_disabled(tmp_path, caplog):
    progress = Progress()
    progress.disable()
    with caplog.at_level(logging.INFO, logger="latentlab"):
        fit(tmp_path, [progress])
    assert not [record for record in caplog.records if record.name.startswith("latentlab")]


def test_cost_of_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress()
    trainer = fit(tmp_path, [progress], epochs=1)
    progress.on_train_start(trainer, trainer.lightning_module)
    progress.on_train_epoch_start(trainer, trainer.lightning_module)
    batch, n = Batch(torch.zeros(16, 1), torch.zeros(16)), 20_000
    start = perf_counter()
    for index in range(n):
        progress.on_train_batch_end(trainer, trainer.lightning_module, None, batch, index)
    cost = (perf_counter() - start) / n
    progress.on_train_end(trainer, trainer.lightning_module)
    assert cost < 2e-5


class Slow(Callback):
    def on_validation_start(self, trainer, pl_module):
        sleep(0.1)

    def on_train_epoch_end(self, trainer, pl_module):
        sleep(0.1)


@pytest.mark.parametrize("order", [1, -1])
def test_timing_leaves_out_validation_and_figures(tmp_path, order):
    timing = Timing()
    start = perf_counter()
    fit(tmp_path, [timing, Slow()][::order], epochs=2)
    assert 0 < timing.train_seconds < perf_counter() - start - 0.4 + 0.05
    assert timing.examples == 128
