"""The KL of each latent and the active units by epoch."""

from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from latentlab.batch import Batch
from latentlab.callbacks.figures import Figures
from latentlab.draws import reproducible
from latentlab.evaluation import EVALUATION_SEED, active_units, kl_per_latent
from latentlab.lit import LitModule
from latentlab.models.base import GenerativeModel
from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import MetricsFile
from latentlab.tracking.record import log_figure

# Layers with more latents are left out. They are maps, and their KL is `val/kl_1`, ... in metrics.csv.
MOST_UNITS = 256


class Units(Callback):
    r"""Writes the KL of each latent and the number of active units to units.csv after each validation.

    `kl_LAYER_UNIT` is $E_x[KL(q(z_d|x)\,\|\,p(z_d))]$, for layers that have it (see `evaluation.kl_per_latent`). A unit
    is active as in `evaluation.active_units`. The mean and the variance are those of the first validation examples. At
    the end, figures/kl_by_unit.png shows both by epoch if the run draws figures. A run has the same results with and
    without it.

    Args:
        examples: the number of validation examples.
    """

    _file: MetricsFile  # kept over the epochs, because the first row of a writer rewrites the file

    def __init__(self, examples: PositiveInt = 1000) -> None:
        self.examples = examples
        self._kls: list[dict[int, Tensor]] = []
        self._means: list[Tensor] = []
        self._rows: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = state_dict["rows"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed run writes again what followed its checkpoint. A new run starts a new file.
        if trainer.is_global_zero:
            self._file = MetricsFile(RunDirectory(Path(trainer.default_root_dir)).units)
            self._file.rewind(trainer.global_step, self._rows or 0)
            self._rows = self._rows or 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._kls, self._means = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        model: Any = LitModule.of(pl_module).model
        left = self.examples - sum(map(len, self._means))
        if left > 0 and len(batch.x) and _is_recorded(trainer) and _has_units(model):
            x = model.observe(Batch(batch.x[:left], batch.y[:left]).to(pl_module.device))
            draws = reproducible(EVALUATION_SEED, pl_module.device)
            unmixed = torch.autocast(pl_module.device.type, enabled=False)  # as validation scores
            with torch.no_grad(), draws, trainer.precision_plugin.forward_context(), unmixed:
                kls = kl_per_latent(model, x)
                self._means.append(model.posterior_mean(x).cpu())
            self._kls.append({layer: kl for layer, kl in kls.items() if kl.shape[1] <= MOST_UNITS})

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._means:
            return
        row: dict[str, float] = {
            "epoch": trainer.current_epoch,
            "active_units": active_units(torch.cat(self._means)),
        }
        for layer in self._kls[0]:
            means = torch.cat([part[layer] for part in self._kls]).double().mean(0)
            row |= {f"kl_{layer}_{unit}": mean for unit, mean in enumerate(means.tolist(), start=1)}
        self._file.append(row, trainer.global_step - 1)
        self._rows = (self._rows or 0) + 1

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        drawn = any(isinstance(each, Figures) and each.figures for each in trainer.callbacks)  # type: ignore[attr-defined]
        if not (self._rows and drawn and trainer.is_global_zero):
            return
        # Matplotlib is slow to import.
        from latentlab.figures.drawing import save
        from latentlab.figures.kl import kl_by_unit

        run = RunDirectory(Path(trainer.default_root_dir))
        path = save(kl_by_unit(run.units), run.figures / "kl_by_unit.png")
        log_figure(trainer.loggers, "figures/kl_by_unit", path, trainer.global_step, trainer.current_epoch)


def _is_recorded(trainer: Trainer) -> bool:
    return trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _has_units(model: nn.Module) -> bool:
    return isinstance(model, GenerativeModel) and model.learned_inference
