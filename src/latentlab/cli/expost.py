"""`run=RUN`: an experiment that takes the trained model and the data of a run, and learns another prior."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latentlab.cli.screen import say, terminal
from latentlab.errors import UserError
from latentlab.models.conditional import ClassModel
from latentlab.run.checkpoints import checkpoints
from latentlab.run.directory import RunDirectory
from latentlab.run.results import read_results
from latentlab.run.trust import locate

# The parts of a model with one layer of real latents. An autoencoder has no posterior.
NEEDED = ("latent_dim", "encoder", "decoder", "likelihood")
PARTS = (*NEEDED, "posterior", "x_shape", "decoders")
DIFFUSION = "latentlab.models.latent_vdm.LatentVDM"
# The models that this experiment can train.
AUTOENCODER = "latentlab.models.expost.ExPostAutoencoder"
MODELS = ("latentlab.models.expost.ExPostVAE", DIFFUSION)
LOG_PRIOR = {"_target_": "latentlab.objectives.LogPrior", "samples": 1}
# The settings of the data that may differ from those of the run.
FREE = ("root", "path", "batch_size", "batch_size_per_device", "eval_batch_size", "on_device")
# The scores that both the run and this experiment may have.
SCORES = ("test/elbo", "test/log_prior")


def take(config: dict[str, Any], saved: Mapping[str, Any], path: Path, overrides: Iterable[str]) -> None:
    """Put the model and the data of a run into a config.

    Args:
        config: the config of this experiment, with or without interpolations.
        saved: the config of the run.
        path: the checkpoint of the run.
        overrides: the arguments of the command line.

    Raises:
        UserError: for another model than a VAE or an autoencoder, an experiment that learns no prior alone, or an
            override of what the run gives.
    """
    base, model = saved["module"].get("model") or {}, config["model"]
    _check_base(base, saved["names"].get("model"), path)
    parts = {part: base[part] for part in PARTS if part in base}
    taken = {**parts, "pretrained": str(path)}
    if model["_target_"] == DIFFUSION:
        _check_one_decoder(parts.pop("decoders", 1), path)
        taken = {**parts, "pretrained": str(path), "freeze": True, "standardise": True}
    given = [word.lstrip("+~").partition("=")[0] for word in overrides]
    _check_free(given, taken, saved["data"], path)
    learned = {**model, **taken}
    if "posterior" not in base:
        _check_autoencoder(model)
        learned = {key: value for key, value in learned.items() if key not in ("posterior", "decoders")}
        learned["_target_"] = AUTOENCODER
        _put(config, "objective", LOG_PRIOR)
    _put(config, "model", learned)
    config["data"] = _data(config["data"], saved["data"], given)
    config["names"]["data"] = saved["names"]["data"]


def check_given(config: Mapping[str, Any], run: Any) -> None:
    """Refuse a model that needs a run in an experiment without one, a run for another model, and several runs.

    Raises:
        UserError: for one.
    """
    if run is not None and not isinstance(run, str):
        raise UserError(f"run={run}: a prior is fitted to the latents of one run: give run=RUN, a path")
    target = config["model"].get("_target_")
    if run is not None and target not in MODELS:
        raise UserError(
            f"run={run}: train.py learns another prior for it with experiment=expost: did you mean resume?"
        )
    if run is None and target in (MODELS[0], AUTOENCODER):
        raise UserError(
            "experiment=expost fits a prior to the latents of a run: give run=RUN, a VAE or an autoencoder"
        )


def show(summary: Mapping[str, Any], run: str | None) -> None:
    """Print the score of the run and that of this experiment, if both have one."""
    path = None if run is None else RunDirectory.of_checkpoint(checkpoints(Path(run))[0]).summary
    before = read_results(path) if path is not None and path.is_file() else {}
    for name in SCORES:
        if name in before and name in summary:
            old, new = (_with_error(scores, name) for scores in (before, summary))
            gain = summary[name] - before[name]
            say(terminal(), f"{name}: {old} for {run}, {new} with the new prior ({gain:+.2f})")


def _with_error(scores: Mapping[str, Any], name: str) -> str:
    error = scores.get(f"{name}_stderr")
    return f"{scores[name]:.2f}" + ("" if error is None else f" +- {error:.2f}")


def _data(own: Mapping[str, Any], saved: Mapping[str, Any], given: Iterable[str]) -> dict[str, Any]:
    """Return the data of the run, in the order of this experiment's seed, with the free settings that are given."""
    named = [key.removeprefix("data.") for key in given if key.startswith("data.")]
    moved = "root" in saved and not Path(str(saved["root"])).expanduser().is_dir()
    kept = {"seed", *(["root"] if moved else []), *named}
    return {**saved, **{key: own[key] for key in kept if key in own and key in saved}}


def _check_base(base: Mapping[str, Any], name: Any, path: Path) -> None:
    if missing := [part for part in NEEDED if part not in base]:
        raise UserError(
            f"run={path}: model={name} has no {missing[0]}: a prior is fitted to the latents of a VAE or an autoencoder"
        )
    kind = locate(base["_target_"], "model")  # its name is trusted already
    if isinstance(kind, type) and issubclass(kind, ClassModel):
        raise UserError(
            f"run={path}: model={name} has a class y beside its latents: a prior is fitted to those of a VAE without "
            "classes, such as model=vae, or an autoencoder"
        )


def _check_one_decoder(number: int, path: Path) -> None:
    if number > 1:
        raise UserError(
            f"run={path} has an ensemble of {number} decoders, and model=latent_vdm has one: choose prior=mog or "
            "prior=flow"
        )


def _check_free(given: Iterable[str], taken: Mapping[str, Any], data: Mapping[str, Any], path: Path) -> None:
    """Refuse an override of a part that the run gives."""
    for key in given:
        group, _, name = key.partition(".")
        first = name.partition(".")[0]
        fixed = (group == "model" and first in taken) or (group == "data" and name not in FREE)
        if fixed or (group == "data" and name not in data):
            raise UserError(f"{key}: a prior is fitted to the model and the data of run={path}: leave it out")


def _put(config: dict[str, Any], group: str, node: dict[str, Any]) -> None:
    config[group] = node
    if not isinstance(config["module"][group], str):  # an interpolation stays
        config["module"][group] = node


def _check_autoencoder(model: Mapping[str, Any]) -> None:
    if model["_target_"] == DIFFUSION:
        raise UserError(
            "model=latent_vdm needs q(z|x), and an autoencoder has none: choose prior=mog or prior=flow"
        )
