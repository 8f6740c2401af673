"""A run that crashes."""

from pytorch_lightning import Callback


class Crash(Callback):
    """Raises at the start of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("on purpose")
