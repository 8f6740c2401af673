"""Configs of the command line, each composed once in a process, and small models and batches made from them."""

from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from latentlab.batch import Batch
from latentlab.cli.checks import check_config
from latentlab.data.digits import Digits
from latentlab.errors import UserError
from latentlab.lit import GradientModule
from latentlab.protocols import Threshold

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
APART = ("hydra",)  # Hydra's own groups
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in APART)
# Groups whose options set keys outside the group.
WIDE = ("model", "module", "chain", "data", "experiment", "sweep", "debug")
NARROW = [group for group in GROUPS if group not in WIDE]


def options(group: str) -> list[str]:
    """The options of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


# Options that need another one.
NEEDS = {
    "data=earthquakes": ("model=cavi_earthquakes",),
    "data=corpus": ("model=cavi_lda",),
    "data=clusters": ("model=em_mixture",),
    "data=points_csv": ("model=em_mixture", "data.source.path=x"),
    "data=word_counts": ("model=cavi_lda", "data.source.path=x"),
    **{f"chain={option}": ("model=markovian_hvae",) for option in options("chain")},
}
# Each row has one option of every narrow group, and the rows together have all options.
ROWS = [
    tuple(f"{group}={option}" for group, option in zip(NARROW, row, strict=True) if option)
    for row in zip_longest(*map(options, NARROW))
]


@cache
def composition(*overrides: str) -> tuple[DictConfig, dict[str, str]]:
    """The checked config of `python train.py OVERRIDES`, which must not be changed, and the option of each group."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check_config(OmegaConf.to_container(config), resolved)
    return OmegaConf.create(resolved), choices


def composed(*overrides: str) -> DictConfig:
    """The config of `python train.py OVERRIDES`, which must not be changed."""
    return composition(*overrides)[0]


def part(group: str, option: str) -> DictConfig:
    """The config of an option of a narrow group."""
    return composed(*next(row for row in ROWS if f"{group}={option}" in row))[group]


def assembled(model: str, **choices: str) -> DictConfig:
    """The config of `python train.py model=MODEL group=option ...` for narrow groups, made small."""
    config = composed(f"model={model}").copy()
    parts = {group: part(group, option) for group, option in choices.items()}
    for holder in (config, config.model, config.module, config.module.model):
        holder.update({group: node for group, node in parts.items() if group in holder})
        if "protocol" in holder.get("likelihood", {}):
            holder.likelihood = {**holder.likelihood, "protocol": config.protocol}
    return smaller(config)


def smaller(config: DictConfig) -> DictConfig:
    """The same experiment with few latents, draws and components and narrow networks."""
    small = {
        "latent_dim": 3, "num_components": 4, "samples": 2, "hidden": [16], "channels": [8, 8], "hidden_features": [8],
        "num_categories": 4, "transforms": 2, "blocks": 1, "groups": 2,
    }  # fmt: skip
    if config.names.model.endswith("autoencoder"):  # it draws nothing
        del small["samples"]
    return OmegaConf.create(_replaced(OmegaConf.to_container(config, resolve=True), small))


def _replaced(node: Any, values: dict[str, Any]) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: values.get(key, _replaced(value, values)) for key, value in node.items()}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All training digits, uint8 (N, 1, 28, 28), and their labels (N,)."""
    return Digits(Threshold()).train


def examples(protocol: Any, n: int = 6) -> Batch:
    """The first digits under a protocol, or under `threshold` for a protocol of binary images."""
    x, y = digits()
    kind = Threshold() if protocol.binary_source else protocol
    return Batch(kind(x[:n], torch.Generator().manual_seed(0)), y[:n])


def built(config: DictConfig) -> GradientModule:
    """The module of a config, checked against its protocol."""
    module = instantiate(config.module)
    module.model.check(instantiate(config.protocol))
    return module


def step(module: GradientModule, batch: Batch) -> dict[str, Tensor]:
    """Take an optimiser step on the module's objective, and return the gradients by parameter name."""
    x = module.model.observe(batch)
    module.model.initialise(x)
    module.model.anneal(0)
    optimizer = module.make_optimizer(module.parameters())
    bound = module.objective(module.model, x)
    assert bound.shape == (len(batch.x),) and bound.isfinite().all()
    optimizer.zero_grad()
    (-bound.mean()).backward()
    optimizer.step()
    return {name: p.grad for name, p in module.model.named_parameters() if p.requires_grad}


def untrained(gradients: dict[str, Tensor | None]) -> list[str]:
    """The parameters without a gradient after a step."""
    return [
        name
        for name, grad in gradients.items()
        if grad is None or not grad.isfinite().all() or not grad.any()
    ]


def never_trained(module: GradientModule, batch: Batch, steps: int = 4) -> list[str]:
    """The parameters without a gradient in all of the first steps. Layers below a zero layer get theirs later."""
    missing = set(untrained(step(module, batch)))
    for _ in range(steps - 1):
        if missing:
            missing &= set(untrained(step(module, batch)))
    return sorted(missing)


def refusal(config: DictConfig) -> str | None:
    """The message that refuses a config when it is built, or None if it is not refused."""
    try:
        built(config)
    except Exception as error:
        cause = error.__cause__ or error
        if not isinstance(cause, UserError):
            raise
        assert "\n" not in str(cause)
        return str(cause)
    return None
