"""The memory of this machine, and the refusal of models and runs that take too much of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, prod
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentlab.batch import BLOCK, Batch
from latentlab.data.module import DataModule
from latentlab.errors import UserError
from latentlab.lit.base import LitModule
from latentlab.lit.rehearsal import Rehearsal, measure
from latentlab.models.base import GenerativeModel
from latentlab.processes.machine import machine
from latentlab.run.config import leaves

BYTES = torch.float32.itemsize
# Weights, gradients and the two moments of Adam.
COPIES = 4
MANY_DRAWS = 1000
# A proposed number uses this share of the memory.
SHARE = 0.7
# A part of a saved config may make as many numbers in any case, such as simulated data, in as many operations. A model
# takes two or three operations for each of its tensors.
NUMBERS, OPERATIONS = 10_000_000, 100_000


class Bounded(TorchDispatchMode):
    """Raises an error before tensors are made that exceed a limit.

    Args:
        error: the error.
        numbers: the largest number of numbers in all tensors.
        operations: the largest number of operations.
    """

    def __init__(self, error: UserError, numbers: int, operations: float = inf) -> None:
        super().__init__()
        self.error = error
        self.numbers = numbers
        self.operations = operations

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations -= 1
        if not any(isinstance(each, Tensor) for each in args):
            self.numbers -= _size(args)
        if self.numbers < 0 or self.operations < 0:
            raise self.error
        return function(*args, **(kwargs or {}))


def of_trainer(trainer: pl.Trainer) -> int | None:
    """Return the bytes of the devices of one node, None if unknown."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory * trainer.num_devices
    return machine() if device.type == "cpu" else None


def within_memory(node: Any) -> Bounded:
    """Return the context in which an object is built from a config, and refused before it takes too much memory.

    Raises:
        UserError: in the context, with the largest number of the config.
    """
    limit = machine() or 2**63
    error = UserError(
        f"{_largest(node)}: this takes more than the {shown(limit)} of memory here: choose a smaller number"
    )
    return Bounded(error, limit // (2 * BYTES))  # each weight has a gradient


def within_checkpoint(where: str, ckpt_path: str | Path) -> Bounded:
    """Return the context in which a part of a saved config is built, and refused if it outgrows its checkpoint.

    The config may come from somebody else. A checkpoint is at least as large as the weights of its model.

    Args:
        where: the part.
        ckpt_path: the checkpoint.

    Raises:
        UserError: in the context.
    """
    error = UserError(
        f"{where}: this config describes far more numbers than its checkpoint {ckpt_path} holds"
    )
    return Bounded(error, Path(ckpt_path).stat().st_size + NUMBERS, OPERATIONS)


@dataclass(frozen=True)
class Need:
    """The memory of a step or a pass by one setting.

    Attributes:
        key: the key of the setting.
        value: its value.
        bytes: the bytes for any value, which grow linearly.
    """

    key: str
    value: int
    bytes: Callable[[int], float]

    def most(self, limit: float) -> int:
        """Return the largest number of two digits that stays below a limit, 0 if there is none."""
        slope = self.bytes(1) - self.bytes(0)
        number = int(max(limit - self.bytes(0), 0) / slope) if slope > 0 else 0
        unit = 10 ** max(len(str(number)) - 2, 0)
        return number // unit * unit


def check_training(trainer: pl.Trainer, module: LitModule, rehearsal: Rehearsal, node: Any) -> None:
    """Check that a training step and an evaluation pass fit into memory.

    Args:
        trainer: the trainer.
        module: the module.
        rehearsal: its rehearsal.
        node: its config.

    Raises:
        UserError: with the key and a value that fits.
    """
    limit, cost = of_trainer(trainer), rehearsal.cost
    if limit is None or cost is None:
        return
    weights = sum(parameter.nbytes for parameter in module.parameters())
    kept = COPIES * weights * trainer.num_devices
    examples = min(module.data.total_batch_size, module.data.examples_per_epoch)
    step = [
        Need("objective.samples", rehearsal.draws, lambda n: kept + cost(examples, n)),
        Need("data.batch_size", examples, lambda n: kept + cost(n, rehearsal.draws)),
    ]
    scored = Need("module.eval_samples", module.eval_samples, lambda n: weights + cost(BLOCK, n))
    check_fits("a training step", step, limit, node)
    check_fits("an evaluation pass", [scored], limit, node)


def check_evaluation(model: GenerativeModel, data: DataModule, draws: Mapping[str, int], node: Any) -> None:
    """Check that an evaluation pass fits into memory, if it has unusually many draws.

    Args:
        model: the model.
        data: the data.
        draws: the number of draws in memory at a time, by its key.
        node: the config of the model.

    Raises:
        UserError: with the key and a value that fits.
    """
    limit, most = machine(), max(draws.values())
    if limit is None or most <= MANY_DRAWS:
        return
    data.prepare_data()
    data.setup("test")
    batch = data.training_sample(2)

    def score(examples: int, samples: int) -> dict[str, Tensor]:
        return model.terms(model.observe(Batch(batch.x[:examples], batch.y[:examples])), samples=samples)

    cost = measure(score, model.state_dict().values(), most)
    for key, number in draws.items():
        check_fits("an evaluation pass", [Need(key, number, lambda n: cost(BLOCK, n))], limit, node)


def check_fits(what: str, needs: Sequence[Need], limit: int, node: Any) -> None:
    """Check the memory of a step or a pass, described by each of its settings.

    Raises:
        UserError: with the first setting that can be lowered far enough, or the largest number of the config `node`.
    """
    needed = needs[0].bytes(needs[0].value)
    if needed <= limit:
        return
    lowered = [(need, need.most(SHARE * limit)) for need in needs]
    works = [
        (f"{need.key}={need.value}", f"{need.key}={n} fits") for need, n in lowered if 1 <= n < need.value
    ]
    key, remedy = works[0] if works else (_largest(node), "choose a smaller model")
    raise UserError(
        f"{key}: {what} needs about {shown(needed)}, more than the {shown(limit)} of memory here: {remedy}"
    )


def shown(size: float) -> str:
    """Return a number of bytes with its unit, such as "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.3g} {unit}"


def _size(args: Iterable[Any]) -> int:
    # The shape of zeros, or the length of arange. A value to fill a tensor with counts too, but is small.
    # A list of tensors, such as those that are concatenated, is no shape.
    lists = [each for each in args if isinstance(each, list | tuple)]
    shapes = [prod(each) for each in lists if not any(isinstance(item, Tensor) for item in each)]
    lengths = [int(each) for each in args if isinstance(each, int | float) and isfinite(each)]
    return max(shapes or lengths, default=0)


def _largest(node: Any) -> str:
    numbers = [(max(_integers(value), default=0), key, value) for key, value in leaves(node)]
    _, key, value = max(numbers, key=lambda number: number[0], default=(0, "the config", ""))
    return f"{'.'.join(key.split('.')[-2:])}={value}"


def _integers(value: Any) -> list[int]:
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if type(each) is int]
