"""A callback that sends its process a signal at a chosen place of a run."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from latentlab.callbacks import Figures
from latentlab.run import files


class Kill(Callback):
    """Sends a signal at the n-th occurrence of an event, counted from 1.

    The events are `batch` (a training step), `write` (a checkpoint before it is complete), `written` (after it),
    `validation` and `test` (their batches), `figure` (the drawing of one) and `fitted` (the end of training).

    Args:
        number: the name of the signal.
        event: the event.
        n: its occurrence.
        to: `self`, or `parent` for the process that started this rank.
    """

    def __init__(self, number: str, event: str, n: int, to: str = "self") -> None:
        self.number = signal.Signals[number]
        self.event = event
        self.n = n
        self.to = {"self": os.getpid, "parent": os.getppid}[to]
        self.seen: Counter[str] = Counter()

    def happens(self, event: str) -> None:
        self.seen[event] += 1
        if event == self.event and self.seen[event] == self.n:
            os.kill(self.to(), self.number)
            time.sleep(0.3 * (self.to is os.getppid))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        replace = os.replace

        def watched(draft: Any, path: Any) -> None:
            checkpoint = str(path).endswith(".ckpt")
            if checkpoint:
                self.happens("write")
            replace(draft, path)
            if checkpoint:
                self.happens("written")

        files.os = type("os", (), {**vars(os), "replace": staticmethod(watched)})
        for callback in trainer.callbacks:
            if isinstance(callback, Figures):
                callback.figures = {name: self.watched(draw) for name, draw in callback.figures.items()}

    def watched(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(model: Any, data: Any) -> Any:
            self.happens("figure")
            return draw(model, data)

        return drawn

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.happens("batch")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.happens("validation")

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.happens("test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.happens("fitted")
