"""Callbacks that time a run of `train.py` from inside: `+callbacks.clock._target_=clock.Clock`."""

import time
from typing import Any

from bare.timed import line, now
from pytorch_lightning import Callback


class Clock(Callback):
    """Prints the seconds and the processor time of each epoch: of its training steps, and of all that it does."""

    def __init__(self) -> None:
        self.epoch = 0
        self.start = (0.0, 0.0)
        self.trained = False

    def on_train_epoch_start(self, *_: Any) -> None:
        self._end_epoch()
        self.epoch += 1
        self.start, self.trained = now(), False

    def on_validation_start(self, *_: Any) -> None:
        self._end_training()

    def on_train_epoch_end(self, *_: Any) -> None:
        self._end_training()

    def on_train_end(self, *_: Any) -> None:
        self._end_epoch()

    def _end_training(self) -> None:
        if self.epoch and not self.trained:
            print(line("epoch", self.epoch, self.start), flush=True)
            self.trained = True

    def _end_epoch(self) -> None:
        if self.epoch:
            print(line("whole", self.epoch, self.start), flush=True)


class FirstStep(Callback):
    """Prints the time after the first training step, in seconds since 1970, and the processor time until then."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if index == 0:
            print(f"first step: {time.time():.6f} {time.process_time():.6f}", flush=True)
