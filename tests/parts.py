"""The real YAML, composed in this process, and tiny tensors of digits to run it on."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from latentlab.batch import Batch
from latentlab.cli.checks import check_config
from latentlab.data.digits import Digits
from latentlab.errors import UserError
from latentlab.lit import GradientModule
from latentlab.protocols import Threshold

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
SEEDS = torch.Generator().manual_seed(0)


def options(group: str) -> list[str]:
    """The options of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def composed(*overrides: str) -> DictConfig:
    """The config of `python train.py OVERRIDES`; not to be changed."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check_config(OmegaConf.to_container(config), resolved)
    return OmegaConf.create(resolved)


def assembled(**choices: str) -> DictConfig:
    """The config of `python train.py group=option ...`, from parts that are composed once each, made small."""
    config = composed(f"model={choices['model']}").copy()
    parts = {
        group: composed(f"{group}={option}")[group] for group, option in choices.items() if group != "model"
    }
    for holder in (config, config.model, config.module, config.module.model):
        holder.update({group: part for group, part in parts.items() if group in holder})
    return smaller(config)


def smaller(config: DictConfig) -> DictConfig:
    """The same experiment with few latents, draws and components, and narrow networks."""
    small = {
        "latent_dim": 3, "num_components": 4, "samples": 2, "hidden": [16], "channels": [8, 8], "hidden_features": [8],
        "num_categories": 4, "transforms": 2, "blocks": 1,
    }  # fmt: skip
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
    """The first digits under a protocol, or under `threshold` where it is one of stored bits."""
    x, y = digits()
    kind = Threshold() if protocol.binary_source else protocol
    return Batch(kind(x[:n], torch.Generator().manual_seed(0)), y[:n])


def built(config: DictConfig) -> GradientModule:
    """The module of a config, checked against its protocol."""
    module = instantiate(config.module)
    module.model.check(instantiate(config.protocol))
    return module


def step(module: GradientModule, batch: Batch) -> dict[str, Tensor]:
    """One step of the module's optimiser on its objective: the gradients by parameter name."""
    x = module.model.observe(batch)
    module.model.initialise(x)
    module.model.anneal(0)
    (optimizer,), _ = module.configure_optimizers()
    bound = module.objective(module.model, x)
    assert bound.shape == (len(batch.x),) and bound.isfinite().all()
    optimizer.zero_grad()
    (-bound.mean()).backward()
    optimizer.step()
    return {name: p.grad for name, p in module.model.named_parameters() if p.requires_grad}


def untrained(gradients: dict[str, Tensor | None]) -> list[str]:
    """The parameters that a step left without a gradient."""
    return [
        name
        for name, grad in gradients.items()
        if grad is None or not grad.isfinite().all() or not grad.any()
    ]


def never_trained(module: GradientModule, batch: Batch, steps: int = 4) -> list[str]:
    """The parameters that none of the first steps gave a gradient: layers that start at zero hold up those below."""
    missing = set(untrained(step(module, batch)))
    for _ in range(steps - 1):
        if missing:
            missing &= set(untrained(step(module, batch)))
    return sorted(missing)


def refusal(config: DictConfig) -> str | None:
    """The words with which a config is refused when it is built, None where it is not."""
    try:
        built(config)
    except Exception as error:
        cause = error.__cause__ or error
        if not isinstance(cause, UserError):
            raise
        assert "\n" not in str(cause)
        return str(cause)
    return None


def parameters(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in model.parameters())
