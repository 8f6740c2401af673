"""Signals that end a run between two batches, from where it resumes exactly."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from latentlab.callbacks.ending import has_taken_all_steps

NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# A terminal and a launcher may both send a signal to the same process. Within these seconds they count as one.
TOGETHER = 1.0
# The number of batches after which the ranks tell one another what they received. Each time costs a synchronisation.
EVERY = 10


class Stopped(SystemExit):
    """The end of a run by a signal, raised on all ranks between the same two batches."""


class _Interrupted(BaseException):
    """The end of a block that nothing is lost with."""


class Signals(Callback):
    """Holds SIGTERM, SIGHUP and Ctrl-C back until the end of a batch. There the run ends with the status 128 + n.

    A second signal ends the process at once. A signal that the process ignores, as under nohup, stays ignored.

    Attributes:
        received: the number of the first signal, 0 before it.
    """

    def __init__(self) -> None:
        self.received = 0
        self._when = 0.0
        self._interrupts = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has set a handler of SIGTERM by now, which saves nothing and can hang several ranks.
        # It sets all handlers back at the end.
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._receive)

    on_test_start = on_train_start

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # A run that is about to stop, or has taken all its steps, would not repeat the validation. It ends after the
        # epoch instead.
        last = trainer.should_stop or has_taken_all_steps(trainer)
        if ranks_meet(trainer, batch_idx) and not last:
            stop(trainer)

    on_test_batch_start = on_validation_batch_start

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # A signal may arrive after the last batch.
        if self.received:
            raise Stopped(128 + self.received)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received and monotonic() - self._when > TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            raise SystemExit(128 + number)
        if not self.received:
            self.received, self._when = number, monotonic()
        if self._interrupts:
            raise _Interrupted

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """End the block as soon as a signal arrives, without an error."""
        self._interrupts = True
        try:
            yield
        except _Interrupted:
            pass
        finally:
            self._interrupts = False


def signals_of(trainer: Trainer) -> Signals:
    """Return the trainer's callback for signals. Without one, no signal is ever received."""
    found = [callback for callback in trainer.callbacks if isinstance(callback, Signals)]  # type: ignore[attr-defined]
    return found[0] if found else Signals()


def ranks_meet(trainer: Trainer, batch_idx: int) -> bool:
    """Return True before the batches at which the ranks may communicate."""
    return trainer.world_size == 1 or batch_idx % EVERY == 0


def largest(trainer: Trainer, *values: int) -> list[int]:
    """Return the largest of each value over the ranks, which must all call it."""
    if trainer.world_size == 1:
        return list(values)
    own = torch.tensor(values, device=trainer.strategy.root_device)
    reduced: list[int] = trainer.strategy.reduce(own, reduce_op="max").tolist()
    return reduced


def stop(trainer: Trainer) -> None:
    """End the run if a rank has received a signal. All ranks must call it.

    Raises:
        Stopped: with the exit status of the signal.
    """
    [number] = largest(trainer, signals_of(trainer).received)
    if number:
        raise Stopped(128 + number)
