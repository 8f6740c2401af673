"""Translations of runs that an older version wrote: class names, the structure of configs, parameter names.

Every config and checkpoint passes through here when it is read. A change must therefore leave today's names alone.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Config = dict[str, Any]
Weights = dict[str, "Tensor"]

# The old dotted name of each class that moved, and its name today.
TARGETS: dict[str, str] = {
    "latentlab.callbacks.ClassSamples": "latentlab.figures.ClassSamples",
    "latentlab.callbacks.DenoisingChain": "latentlab.figures.DenoisingChain",
    "latentlab.callbacks.SamplingSteps": "latentlab.figures.SamplingSteps",
    "latentlab.callbacks.FrozenLayers": "latentlab.figures.FrozenLayers",
    "latentlab.callbacks.Latents": "latentlab.figures.Latents",
    "latentlab.callbacks.LayerKL": "latentlab.figures.LayerKL",
    "latentlab.callbacks.LayerLatents": "latentlab.figures.LayerLatents",
    "latentlab.callbacks.LossByTime": "latentlab.figures.LossByTime",
    "latentlab.callbacks.Manifold": "latentlab.figures.Manifold",
    "latentlab.callbacks.Reconstructions": "latentlab.figures.Reconstructions",
    "latentlab.callbacks.Samples": "latentlab.figures.Samples",
    "latentlab.callbacks.LatentUsage": "latentlab.figures.LatentUsage",
    "latentlab.callbacks.classical.BBVIFigures": "latentlab.figures.classical.BBVIFigures",
    "latentlab.callbacks.classical.EarthquakeFigures": "latentlab.figures.classical.EarthquakeFigures",
    "latentlab.callbacks.classical.GammaFigures": "latentlab.figures.classical.GammaFigures",
    "latentlab.callbacks.classical.MeanFieldFigures": "latentlab.figures.classical.MeanFieldFigures",
    "latentlab.callbacks.classical.NormalGammaFigures": "latentlab.figures.classical.NormalGammaFigures",
    "latentlab.callbacks.classical.PPCAFigures": "latentlab.figures.classical.PPCAFigures",
    "latentlab.lit.VAEModule": "latentlab.lit.GradientModule",
    "latentlab.lit.HierarchicalModule": "latentlab.lit.GradientModule",
    "latentlab.lit.AutoencoderModule": "latentlab.lit.GradientModule",
    "latentlab.lit.ConditionalModule": "latentlab.lit.GradientModule",
    "latentlab.lit.DiffusionModule": "latentlab.lit.GradientModule",
    "latentlab.lit.LatentDiffusionModule": "latentlab.lit.GradientModule",
    "latentlab.lit.LikelihoodModule": "latentlab.lit.ClassicalLikelihoodModule",
    "latentlab.optim.IWAEStages": "latentlab.lit.schedulers.IWAEStages",
    "latentlab.models.latent_diffusion.LatentVDM": "latentlab.models.latent_vdm.LatentVDM",
}

# The gamma_min that the configs of these models once held, and that is their default today.
LEAST_NOISE = {"LatentVDM": -10.0, "NoisedData": -4.0}


def rename_noise_schedules(node: Any) -> Any:
    """Rename `schedule` to `noise_schedule`, and write a default `gamma_min` as null."""
    if isinstance(node, list):
        return [rename_noise_schedules(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    renamed = {key: rename_noise_schedules(value) for key, value in node.items() if key != "least_noise"}
    if _is_noise_schedule(renamed.get("schedule")):
        found = renamed.pop("schedule")
        default = found["gamma_min"] == _least_noise(renamed)
        renamed["noise_schedule"] = found | {"gamma_min": None} if default else found
    return renamed


def _is_noise_schedule(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("_target_")).startswith("latentlab.schedules.")


def _least_noise(model: Config) -> float | None:
    _, _, name = str(model.get("_target_")).rpartition(".")
    if name != "VDM":
        return LEAST_NOISE.get(name)
    grey = ("Continuous", "Discrete")
    return -13.3 if str(model["protocol"]["_target_"]).endswith(grey) else -4.0


# Changes to the structure of a config, applied in order to a config whose targets are renamed already.
CONFIG_CHANGES: list[Callable[[Config], Config]] = [rename_noise_schedules]

# Changes to the names of parameters, applied in order. Each gets the weights and the translated config of the run.
WEIGHT_CHANGES: list[Callable[[Weights, Config], Weights]] = []


def today(config: Config) -> Config:
    """Translate the resolved config of a run to today's names and structure."""
    config = _renamed(config)
    for change in CONFIG_CHANGES:
        config = change(config)
    return config


def todays_weights(weights: Mapping[str, "Tensor"], config: Config) -> Weights:
    """Translate the `state_dict` of a checkpoint to today's parameter names."""
    found = dict(weights)
    for change in WEIGHT_CHANGES:
        found = change(found, config)
    return found


def _renamed(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: TARGETS.get(value, value) if key == "_target_" else _renamed(value)
            for key, value in node.items()
        }
    return [_renamed(each) for each in node] if isinstance(node, list | tuple) else node
