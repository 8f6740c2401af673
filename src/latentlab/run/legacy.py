"""Translations of runs that an older version wrote: class names, the structure of configs, parameter names.

Every config and checkpoint passes through here when it is read. A change must therefore leave today's names alone.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Config = dict[str, Any]
Weights = dict[str, Any]  # tensors, and the extra states of modules

# The old dotted name of each class that moved, and its name today.
TARGETS: dict[str, str] = {
    "latentlab.lit.VAEModule": "latentlab.lit.GradientModule",
    "latentlab.lit.HierarchicalModule": "latentlab.lit.GradientModule",
    "latentlab.lit.AutoencoderModule": "latentlab.lit.GradientModule",
    "latentlab.lit.ConditionalModule": "latentlab.lit.GradientModule",
    "latentlab.lit.DiffusionModule": "latentlab.lit.GradientModule",
    "latentlab.lit.LatentDiffusionModule": "latentlab.lit.GradientModule",
    "latentlab.lit.LikelihoodModule": "latentlab.lit.ClassicalLikelihoodModule",
    "latentlab.classical.cavi.CAVINormalGamma": "latentlab.classical.normal_gamma.CAVINormalGamma",
    "latentlab.classical.steps.Adam": "torch.optim.Adam",
    "latentlab.classical.steps.RobbinsMonro": "latentlab.classical.bbvi.RobbinsMonro",
    "latentlab.optim.IWAEStages": "latentlab.lit.schedulers.IWAEStages",
    "latentlab.models.latent_diffusion.LatentVDM": "latentlab.models.latent_vdm.LatentVDM",
    "latentlab.models.hierarchical.HierarchicalVAE": "latentlab.models.chain.HierarchicalVAE",
    "latentlab.models.markov.MarkovianHVAE": "latentlab.models.chain.MarkovianHVAE",
    "latentlab.models.steps.SeparateSteps": "latentlab.models.chain.SeparateConditionals",
    "latentlab.models.steps.SharedSteps": "latentlab.models.chain.SharedConditionals",
}

# The gamma_min that the configs of these models once held, and that is their default today.
LEAST_NOISE = {"LatentVDM": -10.0, "NoisedData": -4.0}
# The config of a run may come from somebody else. Weights that are shared by more levels are not renamed.
MOST_LEVELS = 10_000
OLD_MLP_DENOISER = "latentlab.nn.denoiser.MLPDenoiser"


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


def move_mlp_denoisers(node: Any, target: str = "") -> Any:
    """Rename the MLP denoiser. Outside of `LatentVDM` it was another function, which has its own class today."""
    if isinstance(node, list):
        return [move_mlp_denoisers(each) for each in node]
    if not isinstance(node, Mapping):
        shift = "" if target.endswith(".LatentVDM") else "Shifted"
        return f"latentlab.nn.denoisers.{shift}MLPDenoiser" if node == OLD_MLP_DENOISER else node
    parent = str(node.get("_target_")) if "denoiser" in node else target
    return {key: move_mlp_denoisers(value, parent) for key, value in node.items()}


def unwrap_denoisers(weights: Weights, config: Config) -> Weights:
    """Rename the parameters of a denoiser that was wrapped to predict log odds."""
    return {name.replace(".denoiser.network.", ".denoiser."): value for name, value in weights.items()}


# The old callback classes that drew figures: the PNG files of each, and today's functions that draw them.
FIGURES: dict[str, dict[str, str]] = {
    "latentlab.callbacks.ClassSamples": {"classes": "classes"},
    "latentlab.callbacks.DenoisingChain": {"denoising": "denoising"},
    "latentlab.callbacks.FrozenLayers": {"frozen_layers": "frozen_layers"},
    "latentlab.callbacks.LatentUsage": {"usage": "usage"},
    "latentlab.callbacks.Latents": {"latents": "latents"},
    "latentlab.callbacks.LayerKL": {"layer_kl": "layer_kl"},
    "latentlab.callbacks.LayerLatents": {"latents_layers": "latents_layers"},
    "latentlab.callbacks.LossByTime": {"loss_by_time": "loss_by_time"},
    "latentlab.callbacks.Manifold": {"manifold": "manifold"},
    "latentlab.callbacks.Reconstructions": {"reconstructions": "reconstructions"},
    "latentlab.callbacks.Samples": {"samples": "samples", "sample_means": "sample_means"},
    "latentlab.callbacks.SamplingSteps": {"sampling_steps": "sampling_steps"},
    "latentlab.callbacks.classical.BBVIFigures": {
        "path": "classical.normal_gamma.path",
        "variance": "classical.normal_gamma.variance",
        "posterior": "classical.normal_gamma.posterior",
    },
    "latentlab.callbacks.classical.EarthquakeFigures": {
        "map": "classical.earthquakes.cluster_map",
        "rates": "classical.earthquakes.rates",
        "elbo": "classical.earthquakes.elbo",
    },
    "latentlab.callbacks.classical.GammaFigures": {"paths": "classical.gamma_mle.paths"},
    "latentlab.callbacks.classical.MeanFieldFigures": {"ellipses": "classical.mean_field.ellipses"},
    "latentlab.callbacks.classical.NormalGammaFigures": {
        "posterior": "classical.normal_gamma.posterior_and_elbo"
    },
    "latentlab.callbacks.classical.PPCAFigures": {
        "likelihood": "classical.ppca.likelihood",
        "loadings": "classical.ppca.loadings",
    },
}


def _draw_figures_by_functions(config: Config) -> Config:
    # Each figure was a callback with its own every_n_epochs. One callback draws all of them today.
    callbacks = {name: entry for name, entry in config.get("callbacks", {}).items() if entry}
    old = {name: entry for name, entry in callbacks.items() if entry.get("_target_") in FIGURES}
    if not old:
        return config
    periods = [entry.get("every_n_epochs") for entry in old.values()]
    skipped = _figures_without_a_diffusion(config)
    found = {name: figure for entry in old.values() for name, figure in _functions(entry).items()}
    drawn = {name: figure for name, figure in found.items() if name not in skipped}
    figures = {
        "_target_": "latentlab.callbacks.Figures",
        "every_n_epochs": min((period for period in periods if period), default=None),
        **drawn,
    }
    rest = {name: entry for name, entry in callbacks.items() if name not in old}
    return {**config, "callbacks": {**rest, "figures": figures}}


def _figures_without_a_diffusion(config: Config) -> tuple[str, ...]:
    # The old callbacks drew nothing for another model. Today's figures refuse it.
    model = config.get("model", {}).get("_target_", "")
    other = model.startswith("latentlab.") and not model.endswith("VDM")
    return ("denoising", "loss_by_time", "sampling_steps") if other else ()


def _functions(callback: Config) -> dict[str, Config]:
    options = {key: value for key, value in callback.items() if key not in ("_target_", "every_n_epochs")}
    return {
        name: {"_target_": f"latentlab.figures.{function}", "_partial_": True, **options}
        for name, function in FIGURES[callback["_target_"]].items()
    }


def rename_step_sizes(config: Config) -> Config:
    """Rename `steps`, a step-size rule, to `step_size`, an optimiser. The number of steps of a diffusion stays."""
    holders = (config, config.get("model", {}), config.get("module", {}).get("model", {}))
    for holder in holders:
        if isinstance(holder.get("steps"), Mapping):
            holder["step_size"] = _as_optimiser(holder.pop("steps"))
    return config


def _as_optimiser(steps: Config) -> Config:
    betas = [steps.pop(name) for name in ("beta1", "beta2") if name in steps]
    return {**steps, "_partial_": True, **({"betas": betas} if betas else {})}


def _rename_optimiser_state(weights: Weights, config: Config) -> Weights:
    # Black-box inference had its own Adam, which ascended. torch's descends, so the mean gradient changes its sign.
    t, moments = weights.pop("model.steps.t", None), weights.pop("model.steps.moments", None)
    if t is None:
        return weights
    state = {"step": int(t)} if moments is None else _adam_state(t, moments)
    return {**weights, "model._extra_state": {0: state}}


def _adam_state(t: "Tensor", moments: "Tensor") -> dict[str, "Tensor"]:
    return {"step": t.float(), "exp_avg": -moments[0], "exp_avg_sq": moments[1]}


def list_conditionals(node: Any) -> Any:
    """Replace `inference` and `transitions` of a Markovian HVAE by `up` and `down`."""
    return _mapped(
        node,
        lambda found: _chain(found) if {"_target_", "inference", "transitions"} <= found.keys() else found,
    )


def _chain(model: Config) -> Config:
    inference, transitions = model.pop("inference"), model.pop("transitions")
    schedule = {"noise_schedule": inference.get("noise_schedule")}
    if inference["_target_"] == "latentlab.models.noising.NoisedData":
        del model["latent_dim"]
        return model | schedule | {"_target_": inference["_target_"], "denoiser": transitions["denoiser"]}
    noising = {"_target_": "latentlab.models.noising.NoisingConditionals", "_partial_": True}
    up = inference.get("steps", noising | schedule)
    return model | {key: inference[key] for key in ("encoder", "posterior")} | {"up": up, "down": transitions}


def rename_conditionals(weights: Weights, config: Config) -> Weights:
    """Rename the weights of a bottom-up hierarchy; those of shared parts have one name for each step."""
    model = config.get("model", {})
    return {today: value for name, value in weights.items() for today in _todays_names(name, model)}


def _todays_names(name: str, model: Config) -> list[str]:
    steps = range(min(model.get("levels") or 1, MOST_LEVELS) - 1)
    if found := re.fullmatch(r"model\.(inference\.steps|transitions)\.conditionals\.(\d+)\.(.+)", name):
        part, index, rest = found.groups()
        which, first = ("down", 0) if part == "transitions" else ("up", 1)
        if str(model.get(which, {}).get("_target_")).endswith(".SharedConditionals"):
            return [f"model.{which}.{first + step}.conditional.{rest}" for step in steps]
        return [f"model.{which}.{first + int(index)}.{rest}"]
    if found := re.fullmatch(r"model\.inference\.chain\.schedule\.(.+)", name):
        holders = [f"up.{1 + step}." for step in steps] if "up" in model else [""]
        return [f"model.{holder}noise_schedule.{found[1]}" for holder in holders]
    name = re.sub(r"^model\.inference\.posterior\.", "model.up.0.", name)
    return [re.sub(r"^model\.transitions\.diffusion\.", "model.diffusion.", name)]


def rename_schedules_of_diffusions(weights: Weights, config: Config) -> Weights:
    """Rename the parameters of a diffusion's learned noise schedule."""
    return {
        name.replace(".diffusion.schedule.", ".diffusion.noise_schedule."): weights[name] for name in weights
    }


def name_protocols(node: Any) -> Any:
    """Give a discretised logistic likelihood, which always had 256 levels, the protocol of its data."""

    def named(found: dict[str, Any]) -> dict[str, Any]:
        logistic = str(found.get("_target_")).endswith(".DiscretisedLogisticLikelihood")
        return {"protocol": {"_target_": "latentlab.protocols.Discrete"}, **found} if logistic else found

    return _mapped(node, named)


# Settings that a class has gained, with the values that older runs had without them.
GAINED: dict[str, dict[str, Any]] = {
    "latentlab.models.vae.VAE": {"decoders": 1},
    "latentlab.models.gmvae.GMVAE": {"learned_weights": True},
    "latentlab.models.latent_vdm.LatentVDM": {
        "standardise": False,
        "prediction": None,
        "sampler": {"_target_": "latentlab.models.samplers.Ancestral"},
    },
    "latentlab.models.vdm.VDM": {
        "label_dropout": 0.1,
        "guidance": 0.0,
        "sampler": {"_target_": "latentlab.models.samplers.Ancestral"},
    },
    "latentlab.objectives.VLB": {"weighting": {"_target_": "latentlab.weightings.Bound"}},
    **{
        f"latentlab.data.{name}": {"label_repeats": 50}
        for name in ("Digits", "TorchvisionData", "Caltech101Silhouettes", "Omniglot", "ImageFiles")
    },
}


def add_gained_settings(node: Any) -> Any:
    """Give classes the settings that they have gained since, with the values that they had before."""
    return _mapped(node, lambda found: {**GAINED.get(str(found.get("_target_")), {}), **found})


def _mapped(node: Any, change: Callable[[dict[str, Any]], Any]) -> Any:
    """Change every mapping in a part of a config, the innermost first."""
    if isinstance(node, list):
        return [_mapped(each, change) for each in node]
    if not isinstance(node, Mapping):
        return node
    return change({key: _mapped(value, change) for key, value in node.items()})


def name_loggers(config: Config) -> Config:
    """Put the settings of the one logger that a run had under the logger's name."""
    logger = config.get("logger", {})
    if "_target_" not in logger:
        return config
    name = str(logger["_target_"]).rpartition(".")[2].removesuffix("_logger")
    return {**config, "logger": {name: logger} if logger["_target_"] else {}}


# Changes to the structure of a config, applied in order to a config whose targets are renamed already.
CONFIG_CHANGES: list[Callable[[Config], Config]] = [
    rename_noise_schedules,
    move_mlp_denoisers,
    _draw_figures_by_functions,
    rename_step_sizes,
    list_conditionals,
    name_protocols,
    name_loggers,
    add_gained_settings,
]

# Changes to the names of parameters, applied in order. Each gets the weights and the translated config of the run.
WEIGHT_CHANGES: list[Callable[[Weights, Config], Weights]] = [
    _rename_optimiser_state,
    rename_conditionals,
    unwrap_denoisers,
    rename_schedules_of_diffusions,
]


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
