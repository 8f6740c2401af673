"""A callback that sends a signal at a chosen place of a run."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from latentlab.callbacks import Figures
from latentlab.run import files


class Kill(Callback):
    """Sends a signal at the n-th occurrence of an event, counted from 1.

    The events are `batch`, `validation` and `test` (a batch of them), `write` (a checkpoint that is not complete yet),
    `written` (one that is), `figure` (the drawing of one) and `fitted` (the end of training).

    Args:
        number: the name of the signal.
        event: the event.
        n: its occurrence.
        to: the number of generations between this process and the one that gets the signal: 1 for its parent.
        once: a file that is made first, and without which nothing is sent again.
    """

    def __init__(self, number: str, event: str, n: int, to: int = 0, once: str | None = None) -> None:
        self.number = signal.Signals[number]
        self.event = event
        self.n = n
        self.to = to
        self.once = once
        self.seen: Counter[str] = Counter()

    def happens(self, event: str) -> None:
        self.seen[event] += 1
        if event != self.event or self.seen[event] != self.n:
            return
        if self.once is not None:
            if Path(self.once).exists():
                return
            Path(self.once).touch()
        os.kill(ancestor(self.to), self.number)
        time.sleep(0.3 * (self.to > 0))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        files.os = Watched(self.happens)
        for callback in trainer.callbacks:
            if isinstance(callback, Figures):
                callback.figures = {name: self.watched(draw) for name, draw in callback.figures.items()}

    def watched(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(model: torch.nn.Module, data: Any) -> Any:
            self.happens("figure")
            return draw(model, data)

        return drawn

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.is_global_zero:
            self.happens("batch")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.is_global_zero:
            self.happens("validation")

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.is_global_zero:
            self.happens("test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.happens("fitted")


class Watched:
    """The module `os`, which reports the replacement of checkpoints.

    Args:
        happens: is told the event.
    """

    def __init__(self, happens: Callable[[str], None]) -> None:
        self.happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, draft: Path, path: Path) -> None:
        checkpoint = path.suffix == ".ckpt"
        if checkpoint:
            self.happens("write")
        os.replace(draft, path)
        if checkpoint:
            self.happens("written")


def ancestor(generations: int) -> int:
    """Return the process id of this process's parent, grandparent, and so on."""
    pid = os.getpid()
    for _ in range(generations):
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return pid
