"""What is estimated of a tested model beside its bound."""

from collections.abc import Iterator
from math import prod
from typing import Any

import pytorch_lightning as pl
import torch

from latentlab.batch import blocks
from latentlab.cli.report import protocol_of
from latentlab.errors import UserError
from latentlab.evaluation import active_units, bits_per_dim, nll
from latentlab.models.base import GenerativeModel

NLL_SAMPLES = 100


def check_estimates(module: pl.LightningModule, nll_samples: int) -> None:
    """Refuse a likelihood estimate of a model that has none, or no test set.

    Raises:
        UserError: with the reason.
    """
    model: Any = module.model
    if nll_samples > 0 and not isinstance(model, GenerativeModel):
        raise UserError(
            f"nll.samples={nll_samples}: {type(model).__name__} is about its own data and has no test set: "
            "leave nll.samples at 0"
        )
    if nll_samples > 0 and not model.bounded:
        raise UserError(
            f"nll.samples={nll_samples}: {type(model).__name__} has no bound on log p(x), nor an estimate of it: "
            "leave nll.samples at 0, or train a model that has one, such as model=vae"
        )
    if nll_samples > 0 and not model.weighted:
        raise UserError(
            f"nll.samples={nll_samples}: the NLL is estimated by importance weights of drawn latents, and "
            f"{type(model).__name__} has none: leave nll.samples at 0 (its bound is test/elbo), or train a model that "
            "has them, such as model=vae"
        )


def choose_nll_samples(module: pl.LightningModule, asked: int | None) -> int:
    """The draws that the NLL is estimated with: as asked, else NLL_SAMPLES for a model that has one and 0 elsewhere.

    Raises:
        UserError: when draws are asked for, and the model has no likelihood to estimate.
    """
    model: Any = module.model
    if asked is None:
        has_one = isinstance(model, GenerativeModel) and model.bounded and model.weighted
        return NLL_SAMPLES if has_one else 0
    check_estimates(module, asked)
    return asked


def estimate(trainer: pl.Trainer, nll_samples: int, chunk: int) -> dict[str, float]:
    """What is reported of a tested model beside its bound: bits per dimension, active units, NLL if asked for."""
    module: Any = trainer.lightning_module
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(module.model, GenerativeModel):
        return {}  # a classical inference about its own data
    model = module.to(trainer.strategy.root_device).eval().model

    def observations() -> Iterator[Any]:
        parts = (block for batch in data.test_dataloader() for block in blocks(batch))
        return (module.observed(module.transfer_batch_to_device(part, module.device, 0)) for part in parts)

    found: dict[str, float] = {}
    if model.learned_inference:
        with torch.inference_mode():
            means = torch.cat([model.posterior_mean(x).cpu() for x in observations()])
        found["active_units"] = active_units(means)
    if nll_samples > 0:
        found |= nll(model, observations(), nll_samples, chunk, data.num_examples["test"])
    offset = protocol_of(trainer).bits_offset
    if model.bounded and offset is not None:
        found["bits_per_dim"] = bits_per_dim(module.results["test/elbo"], prod(model.x_shape), offset)
    return {f"test/{name}": value for name, value in found.items()}
