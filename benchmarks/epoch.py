"""The time of one training epoch with latentlab, compared with a bare loop over the same model.

    python benchmarks/epoch.py [--examples 50000] [--repeats 5]

The contenders take turns in one process. Each adds one layer to the one before: latentlab's model, Lightning, and all
that `train.py` adds. The benchmark prints the minimum and the median seconds of each, and the ratio to the bare loop.
The images are random, because their content does not change the time.
"""

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from statistics import median
from tempfile import TemporaryDirectory

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributions import Distribution

from latentlab.callbacks import Progress, Timing
from latentlab.data import ImageData, Images, Splits, TrainingLoader
from latentlab.likelihoods import BernoulliLikelihood
from latentlab.lit import GradientModule
from latentlab.models.vae import VAE
from latentlab.nn.mlp import MLP
from latentlab.objectives import AnalyticELBO
from latentlab.posteriors import DiagonalNormalPosterior
from latentlab.priors import StandardNormalPrior
from latentlab.protocols import Threshold
from latentlab.tracking.csv_logger import CSVMetrics

LATENT_DIM, BATCH = 10, 128


def model() -> VAE:
    """The default VAE with widths 784-512-512-2M."""
    return VAE(LATENT_DIM, MLP, MLP, DiagonalNormalPosterior, BernoulliLikelihood, StandardNormalPrior)


def adam(parameters: object) -> torch.optim.Optimizer:
    """Adam with the settings of conf/optimizer/adam.yaml."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)  # type: ignore[arg-type]


def constant(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """A constant learning rate."""
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)


def bare(images: Tensor) -> float:
    """A plain loop with the bound written on tensors, without distributions, loader and Lightning."""
    encoder, decoder = MLP((784,), (2, LATENT_DIM)), MLP((LATENT_DIM,), (784,))
    optimizer = adam([*encoder.parameters(), *decoder.parameters()])
    pixels = images.flatten(1)
    start = time.perf_counter()
    for index in torch.randperm(len(pixels)).split(BATCH):
        x = (pixels[index] > 127).float()
        loc, log_scale = encoder(x).unbind(-2)
        logits = decoder(loc + log_scale.exp() * torch.randn_like(loc))
        log_px_z = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1)
        loss = (kl - log_px_z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def loop(images: Tensor) -> float:
    """A plain loop over latentlab's loader, model and objective, without Lightning."""
    vae, objective = model(), AnalyticELBO()
    optimizer = adam(vae.parameters())
    loader = train_loader(images)
    start = time.perf_counter()
    for batch in loader:
        loss = -objective(vae, batch.x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def barebones(images: Tensor) -> float:
    """Lightning's Trainer in its barebones mode."""
    return fit(images, barebones=True)


def full(images: Tensor) -> float:
    """Lightning with progress, metrics.csv and a logged bound, as `train.py` runs it."""
    with TemporaryDirectory() as folder:
        return fit(
            images,
            logger=CSVMetrics(folder),
            callbacks=[Progress(), Timing()],
            log_every_n_steps=20,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
        )


class Clock(pl.Callback):
    """The wall time of a training epoch."""

    seconds = 0.0

    def on_train_epoch_start(self, *_: object) -> None:
        self.seconds = -time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seconds += time.perf_counter()


def fit(images: Tensor, callbacks: list[pl.Callback] | None = None, **options: object) -> float:
    """Train one epoch with Lightning and return its seconds."""
    clock = Clock()
    module = GradientModule(model(), AnalyticELBO(), adam, constant)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, callbacks=[*(callbacks or []), clock], **options)  # type: ignore[arg-type]
    trainer.fit(module, datamodule=RandomImages(images))
    return clock.seconds


class RandomImages(ImageData):
    """The given images as training and test set."""

    name = "random images"

    def __init__(self, images: Tensor) -> None:
        super().__init__(Threshold(), batch_size=BATCH, val_size=0)
        self.images = images

    def read(self) -> Splits:
        every = Images(self.images, torch.full((len(self.images),), -1))
        return Splits(train=every, test=every)


def train_loader(images: Tensor) -> TrainingLoader:
    return TrainingLoader(images, torch.zeros(len(images), dtype=torch.int64), Threshold(), BATCH)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--examples", type=int, default=50_000)
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    Distribution.set_default_validate_args(False)
    images = torch.randint(0, 256, (options.examples, 1, 28, 28), dtype=torch.uint8)
    contenders: list[Callable[[Tensor], float]] = [bare, loop, barebones, full]
    seconds: dict[str, list[float]] = {contender.__name__: [] for contender in contenders}
    for _ in range(options.repeats):
        for contender in contenders:
            seconds[contender.__name__].append(contender(images))
    reference = min(seconds["bare"])
    print(f"one epoch of {options.examples} images, batch {BATCH}, {torch.get_num_threads()} threads")
    for contender in contenders:
        times = seconds[contender.__name__]
        print(
            f"{contender.__name__:10s} min {min(times):6.2f} s  median {median(times):6.2f} s  "
            f"{min(times) / reference:5.2f} x bare   {contender.__doc__}"
        )


if __name__ == "__main__":
    main()
