"""`run=RUN`: an experiment that takes the trained model and the data of a run, and learns another prior."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentlab.errors import UserError

# The parts of a model with one layer of real latents. An autoencoder has no posterior.
NEEDED = ("latent_dim", "encoder", "decoder", "likelihood")
PARTS = (*NEEDED, "posterior", "x_shape")
DIFFUSION = "latentlab.models.latent_vdm.LatentVDM"
# The models that this experiment can train.
AUTOENCODER = "latentlab.models.expost.ExPostAutoencoder"
MODELS = ("latentlab.models.expost.ExPostVAE", DIFFUSION)
LOG_PRIOR = {"_target_": "latentlab.objectives.LogPrior", "samples": 1}


def take(config: dict[str, Any], saved: Mapping[str, Any], path: Path) -> None:
    """Put the model and the data of a run into a config.

    Args:
        config: the config of this experiment, with or without interpolations.
        saved: the config of the run.
        path: the checkpoint of the run.

    Raises:
        UserError: for another model than a VAE or an autoencoder, or an experiment that learns no prior alone.
    """
    base, model = saved["module"].get("model") or {}, config["model"]
    if missing := [part for part in NEEDED if part not in base]:
        name = saved["names"].get("model")
        raise UserError(
            f"run={path}: model={name} has no {missing[0]}: a prior is fitted to the latents of a VAE or an autoencoder"
        )
    parts = {part: base[part] for part in PARTS if part in base}
    learned = {**model, **parts, "pretrained": str(path)}
    if model["_target_"] == DIFFUSION:
        learned |= {"freeze": True, "standardise": True}
    if "posterior" not in base:
        _check_autoencoder(model)
        learned = {key: value for key, value in learned.items() if key != "posterior"} | {
            "_target_": AUTOENCODER
        }
        _put(config, "objective", LOG_PRIOR)
    _put(config, "model", learned)
    config["data"] = {
        **saved["data"],
        **{key: config["data"][key] for key in ("root",) if key in saved["data"]},
    }
    config["names"]["data"] = saved["names"]["data"]


def check_given(config: Mapping[str, Any], run: str | None) -> None:
    """Refuse a model that needs a run in an experiment without one, and a run for another model.

    Raises:
        UserError: for one.
    """
    target = config["model"].get("_target_")
    if run is not None and target not in MODELS:
        raise UserError(
            f"run={run}: train.py learns another prior for it with experiment=expost: did you mean resume?"
        )
    if run is None and target in (MODELS[0], AUTOENCODER):
        raise UserError(
            "experiment=expost fits a prior to the latents of a run: give run=RUN, a VAE or an autoencoder"
        )


def _put(config: dict[str, Any], group: str, node: dict[str, Any]) -> None:
    config[group] = node
    if not isinstance(config["module"][group], str):  # an interpolation stays
        config["module"][group] = node


def _check_autoencoder(model: Mapping[str, Any]) -> None:
    if model["_target_"] == DIFFUSION:
        raise UserError(
            "model=latent_vdm needs q(z|x), and an autoencoder has none: choose prior=mog or prior=flow"
        )
