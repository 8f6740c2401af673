"""A callback that saves the batches and weights of a rank."""

import sys
from pathlib import Path

import torch
from pytorch_lightning import Callback


class Probe(Callback):
    """Writes RUN/probe_RANK.pt: the weights before and after training, all batches, and the imported loggers."""

    def __init__(self):
        self.seen = {"batches": [], "weights": []}

    def on_train_start(self, trainer, pl_module):
        self.note(pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen["batches"].append(batch.x.flatten(1).bool())

    def on_train_end(self, trainer, pl_module):
        self.note(pl_module)
        self.seen["libraries"] = sorted({"wandb", "tensorboard"} & sys.modules.keys())
        torch.save(self.seen, Path(trainer.default_root_dir) / f"probe_{trainer.global_rank}.pt")

    def note(self, module):
        self.seen["weights"].append(torch.cat([p.detach().flatten().clone() for p in module.parameters()]))
