"""A tiny VAE with its data and Lightning module, quick to train."""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from latentlab.batch import Batch
from latentlab.lit import LitModule
from latentlab.lit.rehearsal import Rehearsal
from latentlab.models.base import GenerativeModel


def collate(items):
    xs, ys = zip(*items, strict=True)
    return Batch(torch.stack(xs), torch.stack(ys))


class ToyVAE(GenerativeModel):
    x_shape = (1, 28, 28)

    def __init__(self, latent_dim=2, width=16):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 2 * latent_dim)
        )
        self.decoder = nn.Sequential(nn.Linear(latent_dim, width), nn.ReLU(), nn.Linear(width, 784))
        self.dropout = nn.Dropout(0.1)

    def logits(self, z):
        return self.decoder(z).unflatten(-1, (1, 28, 28))

    def observe(self, batch):
        return batch.x

    def elbo(self, x):
        mean, log_scale = self.encoder(self.dropout(x)).chunk(2, -1)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        kl = (0.5 * (mean**2 + (2 * log_scale).exp() - 1) - log_scale).sum(-1)
        log_px_z = -F.binary_cross_entropy_with_logits(self.logits(z), x, reduction="none").flatten(1).sum(-1)
        return log_px_z - kl

    def terms(self, x, samples=1):
        return {"elbo": self.elbo(x)}

    def check(self, protocol):
        """Accept any data."""

    def rehearse(self):
        return Rehearsal(frozenset())

    def posterior_mean(self, x):
        return self.encoder(x).chunk(2, -1)[0]

    def encode(self, x):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        return mean + log_scale.exp() * torch.randn_like(mean)

    def decode(self, z):
        return self.logits(z).sigmoid()

    def generate(self, n, mean=False):
        p = self.decode(torch.randn(n, self.latent_dim))
        return p if mean else torch.bernoulli(p)


class ToyModule(LitModule):
    """A module whose validation bound is NaN from epoch `diverge_at` on, and whose step `fail_at` raises."""

    def __init__(self, latent_dim=2, width=16, lr=1e-3, diverge_at=10**9, fail_at=10**9):
        super().__init__(ToyVAE(latent_dim, width))
        self.lr = lr
        self.diverge_at = diverge_at
        self.fail_at = fail_at
        self.error: type[BaseException] = RuntimeError

    def check(self, data):
        """Accept any data."""

    def rehearse(self):
        return Rehearsal(frozenset())

    def training_step(self, batch, batch_idx):
        if self.global_step >= self.fail_at:
            raise self.error("on purpose")
        bound = self.model.elbo(batch.x).mean()
        self.log("train/elbo", bound)
        return -bound

    def validation_step(self, batch, batch_idx):
        bound = self.model.elbo(batch.x).mean()
        self.log("val/elbo", bound if self.current_epoch < self.diverge_at else bound * torch.nan)

    def test_step(self, batch, batch_idx):
        self.log("test/elbo", self.model.elbo(batch.x).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.lr)


class ToyData(pl.LightningDataModule):
    def __init__(self, n=64, batch_size=16, val=True, labelled=True):
        super().__init__()
        digits = load_digits()
        x = torch.from_numpy(digits.images[:n]).float()[:, None] / 16
        self.x = (F.interpolate(x, size=(28, 28), mode="bilinear") > 0.5).float()
        self.y = torch.from_numpy(digits.target[:n]).long() if labelled else torch.full((n,), -1)
        self.batch_size = batch_size
        self.val = val
        # A loader draws a seed even when it has no workers: not from the generator of the training.
        self.seeds = torch.Generator()

    def loader(self):
        return DataLoader(
            TensorDataset(self.x, self.y),
            batch_size=self.batch_size,
            collate_fn=collate,
            generator=self.seeds,
        )

    def train_dataloader(self):
        return self.loader()

    def val_dataloader(self):
        return self.loader() if self.val else []

    def test_dataloader(self):
        return self.loader()

    whole_test_set = test_dataloader


def trainer_in(folder, callbacks=(), loggers=False, epochs=2, **options):
    return pl.Trainer(
        **dict(
            default_root_dir=folder,
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            callbacks=list(callbacks),
            logger=loggers,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_progress_bar=any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
            enable_checkpointing=any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
        )
        | options
    )
