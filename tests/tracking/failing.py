"""A run that crashes, and a W&B service that dies."""

import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class Crash(Callback):
    """Raises at the start of an epoch, once in a run directory."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        crashed = Path(trainer.default_root_dir, "crashed")
        if trainer.current_epoch == self.epoch and not crashed.exists():
            crashed.touch()
            raise RuntimeError("on purpose")


class KillService(Crash):
    """Kills the W&B service of this process at the start of an epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            for name in Path("/proc").glob("[0-9]*/cmdline"):
                words = name.read_text().split("\0")
                if words[0].endswith("wandb-core") and str(os.getpid()) in words:
                    os.kill(int(name.parent.name), signal.SIGKILL)
