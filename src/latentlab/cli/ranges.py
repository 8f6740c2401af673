"""The values that settings and the arguments of library classes may have. Our own classes annotate theirs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import zuko
from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def only(value: Any, remedy: str) -> Any:
    """Return an annotation of the one value that works."""

    def check(given: Any) -> Any:
        if type(given) is not type(value) or given != value:
            raise ValueError(remedy)
        return given

    return Annotated[Any, AfterValidator(check)]


def between(low: float, high: float) -> Any:
    """Return an annotation of the numbers from `low` to `high`."""

    def check(given: float) -> float:
        if not low <= given <= high:
            raise ValueError(f"give a number from {low:g} to {high:g}")
        return given

    return Annotated[float, AfterValidator(check)]


# A smaller rate changes no float32 weight, and a larger one ends in NaN.
LearningRate = between(1e-12, 1e4)
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Batches = PositiveInt | Share | None
Limit = PositiveInt | Literal[-1]
SomeBatches = NonNegativeInt | Annotated[float, Field(ge=0, le=1)] | None

SETTINGS: dict[str, Any] = {
    "seed": Annotated[int, Field(ge=0, lt=2**32)],
    "validate_args": bool,
    "compile": bool,
    "names": dict[str, str],
}
# By class and argument, for subclasses too.
LIBRARY: dict[type, dict[str, Any]] = {
    Optimizer: {
        "lr": LearningRate,
        "betas": tuple[Decay, Decay],
        "eps": NonNegativeFloat,
        "weight_decay": NonNegativeFloat,
        "momentum": Decay,
        "momentum_decay": NonNegativeFloat,
        "alpha": Decay,
        "rho": Decay,
    },
    LRScheduler: {
        "T_max": PositiveInt,
        "T_0": PositiveInt,
        "T_mult": PositiveInt,
        "eta_min": NonNegativeFloat,
        "step_size": PositiveInt,
        "milestones": Annotated[Sequence[PositiveInt], Field(min_length=1)],
        "gamma": PositiveFloat,
        "factor": Share,
        "start_factor": Share,
        "end_factor": Annotated[float, Field(ge=0, le=1)],
        "total_iters": NonNegativeInt,
        "total_steps": PositiveInt,
        "power": PositiveFloat,
        "max_lr": LearningRate,
        "base_lr": LearningRate,
        "last_epoch": only(-1, "a resumed run continues the schedule by itself: leave it out"),
    },
    EarlyStopping: {
        "monitor": str | None,  # None for that of best.ckpt
        "mode": Literal["min", "max"],
        "patience": NonNegativeInt,
        "min_delta": NonNegativeFloat,
    },
    Trainer: {
        "accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps"],
        "strategy": Literal["auto", "ddp", "ddp_find_unused_parameters_true"],
        "num_nodes": PositiveInt,
        "max_epochs": Limit | None,
        "min_epochs": PositiveInt | None,
        "max_steps": Limit,
        "min_steps": PositiveInt | None,
        "precision": Literal["32-true", "bf16-mixed", "16-mixed", "64-true", 32, 64, "32", "64"],
        "gradient_clip_val": NonNegativeFloat | None,
        "gradient_clip_algorithm": Literal["norm", "value"] | None,
        "accumulate_grad_batches": PositiveInt,
        "check_val_every_n_epoch": PositiveInt | None,
        "log_every_n_steps": NonNegativeInt | None,
        "limit_train_batches": Batches,
        "limit_val_batches": SomeBatches,
        "limit_test_batches": only(
            1.0, "every bound is exact over the test set: leave it out (trainer.fast_dev_run is a dry run)"
        ),
        "overfit_batches": SomeBatches,
        "val_check_interval": Batches,
        "reload_dataloaders_every_n_epochs": NonNegativeInt,
        "num_sanity_val_steps": NonNegativeInt | Literal[-1],
        "use_distributed_sampler": only(False, "the data module shares the examples itself: leave it out"),
        "fast_dev_run": bool | NonNegativeInt,
        "logger": only(None, "train.py sets it: choose the group, such as logger=none"),
        "callbacks": only(
            None, "train.py sets them: add an entry to the group, +callbacks.NAME={_target_:...}"
        ),
        "default_root_dir": only(None, "train.py sets it: give hydra.run.dir=DIR"),
        "plugins": only(None, "train.py sets them: leave it out"),
        "profiler": Literal["simple", "advanced", "pytorch"] | None,
        "barebones": only(False, "a run needs its callbacks: leave it out"),
        "enable_checkpointing": only(True, "a run needs its checkpoints: leave it out"),
    },
    zuko.flows.Flow: {
        "transforms": Annotated[int, Field(gt=0, le=1000)],
        "hidden_features": Sequence[PositiveInt],
        "bins": PositiveInt,
        "passes": PositiveInt | None,
    },
}


def of_library(target: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the ranges of the arguments of a library class or of its subclass, by name."""
    kinds = [kind for kind in LIBRARY if inspect.isclass(target) and issubclass(target, kind)]
    return {name: hint for kind in kinds for name, hint in LIBRARY[kind].items()}
