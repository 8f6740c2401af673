"""SIGTERM on several devices."""

import signal

from pytorch_lightning import Callback, LightningModule, Trainer


class OwnSignals(Callback):
    """Keeps, on several devices, the handler of SIGTERM that the process had before it trained.

    Lightning's own sends a message to all ranks from within the handler, which waits for ever when another rank is
    waiting for something else.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the handler back in its place."""
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, self.handler)

    on_test_start = on_train_start
