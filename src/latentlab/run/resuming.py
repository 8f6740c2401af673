"""Resuming a run: the settings that must stay as they were, the checkpoint, and the finished runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latentlab.errors import UserError
from latentlab.run.checkpoints import read_first
from latentlab.run.config import CHECKSUM, PLACES, leaves, shown
from latentlab.run.directory import RunDirectory

# The parts of a config that a run is built from. Other groups are copies of their parts, or not used.
BUILT_FROM = ("module", "data", "trainer", "callbacks", "seed", "compile", "validate_args")
LOGGED = ("logger", "figures", "callbacks.figures")
# A resumed run may change these as well: the length of the training, the devices, and what is shown of it.
LIMITS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
DEVICES = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
SHOWN = (
    *("callbacks.progress", "callbacks.last.every_minutes", "callbacks.last.min_seconds", "callbacks.units"),
    *("trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
    "trainer.profiler",
)
# Settings without an influence on the results of a run.
HARMLESS = ("ckpt_path", *PLACES, CHECKSUM, *LOGGED, *SHOWN)
FREE = (*HARMLESS, *LIMITS, *DEVICES, "data.eval_batch_size", "data.on_device", "model.tolerance")

# Older versions wrote the metric that chooses best.ckpt into every config. It is null by default today.
MONITORS = ("callbacks.best.monitor", "callbacks.early_stopping.monitor")
FORMER_MONITORS = ("val/elbo", "val/reconstruction")

PROTOCOL = "protocol._target_"
ABSENT = object()
Difference = tuple[str, Any, Any]


def differences(
    asked: Mapping[str, Any], known: Mapping[str, Any], free: tuple[str, ...]
) -> Iterator[Difference]:
    """Yield the settings of two configs that differ: the key, the value in each, ABSENT for none.

    Only settings that a run is built from count. A key of the module is given without `module.`. A missing setting
    equals null, as an older version did not have it.

    Args:
        asked: a config.
        known: another config.
        free: keys that may differ, with all keys below them.
    """
    one, other = built_from(asked), built_from(known)
    for key in {**one, **other}:
        values = one.get(key, ABSENT), other.get(key, ABSENT)
        given = any(value not in (None, ABSENT) for value in values)
        if given and values[0] != values[1] and not is_among(key, free):
            yield (key, *values)


def built_from(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a run is built from by dotted key, those of the module without `module.`."""
    parts = BUILT_FROM if "module" in config else tuple(config)
    values = {key: value for part in parts if part in config for key, value in leaves(config[part], part)}
    if "module" in config and extends_cosine(config):
        del values["module.scheduler.T_max"]
    # A model takes its shape from the data, whose settings are compared. Older runs do not name it.
    values.pop("module.model.x_shape", None)
    return {key.removeprefix("module."): value for key, value in values.items()}


def users_key(key: str, config: Mapping[str, Any]) -> str:
    """Return the key that a user gives for a setting of the module: prior.x instead of model.prior.x."""
    inner = key.partition(".")[2]
    return inner if inner.partition(".")[0] in config else key


def is_among(key: str, keys: tuple[str, ...]) -> bool:
    """Return True if a dotted key is one of some keys, or lies below one."""
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def check_resumed(config: Mapping[str, Any], known: Mapping[str, Any], ckpt_path: str) -> None:
    """Refuse to resume a run with other settings than it was started with, except for those in FREE.

    Args:
        config: the config of the resumed run.
        known: the config of the run that wrote the checkpoint.
        ckpt_path: the checkpoint.

    Raises:
        UserError: for the first setting that differs.
    """
    found = list(differences(config, known, FREE))
    # The name of the data holds their protocol and settings, each of which is compared below.
    keys = [key for key, *_ in found]
    same_data = all(key.endswith(PROTOCOL) for key in keys) or not any(map(_is_set, keys))
    for name, option in config["names"].items():
        before = known["names"].get(name, option)
        if before != option and not (name == "data" and same_data):
            raise _refused(name, option, before, ckpt_path)
    for key, asked, before in found:
        if asked is None and key in MONITORS and before in FORMER_MONITORS:
            continue
        raise _refused(users_key(key, config), asked, before, ckpt_path)


def _is_set(key: str) -> bool:
    return key.startswith("data.") and key.endswith("_target_")


def extends_cosine(config: Mapping[str, Any]) -> bool:
    """Return True if the learning rate of a config falls along a cosine over `trainer.max_epochs`."""
    scheduler = (config.get("module") or {}).get("scheduler") or {}
    length = scheduler.get("T_max")
    return length is not None and length == config["trainer"].get("max_epochs")


def choose_checkpoint(place: Path) -> Path:
    """Return the checkpoint from which a run resumes: last.ckpt, or best.ckpt if that one is damaged.

    Args:
        place: the run directory, or one of its checkpoints.

    Raises:
        UserError: if there is no checkpoint that can be read.
    """
    if not place.is_dir():
        return place
    run = RunDirectory(place)
    there = [path for path in (run.last_checkpoint, run.best_checkpoint) if path.exists()]
    if not there:
        raise UserError(
            f"resume={place}: there is no checkpoint in {run.checkpoints}, so start the run again"
        )
    return read_first(there, "resume")[0]


def epochs_in(state: Mapping[str, Any]) -> int:
    """Return the number of whole epochs behind a checkpoint."""
    return int(state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def stopped_early(state: Mapping[str, Any]) -> bool:
    """Return True if early stopping ended the training before a checkpoint was written."""
    found = [value for key, value in state.get("callbacks", {}).items() if key.startswith("EarlyStopping")]
    return any(isinstance(value, Mapping) and bool(value.get("stopping_reason")) for value in found)


def _early_stopping(callbacks: Mapping[str, Any]) -> str:
    names = [
        name for name, node in callbacks.items() if node and "EarlyStopping" in str(node.get("_target_"))
    ]
    return f"callbacks.{(names or ['early_stopping'])[0]}"


def check_unfinished(
    run: RunDirectory, config: Mapping[str, Any], known: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Refuse to resume a run that has nothing left to do.

    Args:
        run: the directory in which the run resumes.
        config: the config of the resumed run.
        known: the config of the run that wrote the checkpoint.
        state: the checkpoint.

    Raises:
        UserError: if the run is finished, has stopped early, has passed the new limit, or was a dry run, or if the
            checkpoint holds weights alone.
    """
    if "loops" not in state:
        raise UserError(
            f"{config['ckpt_path']} holds weights alone, as the models of the zoo do, and no state of a training: "
            "start a new run"
        )
    if dry := known["trainer"].get("fast_dev_run"):
        raise UserError(
            f"trainer.fast_dev_run={shown(dry)}: {run.path} was a dry run, which has nothing to resume: start "
            "a new run without this setting"
        )
    _check_steps(run, config["trainer"].get("max_steps", -1), state["global_step"])
    epochs, most = epochs_in(state), config["trainer"].get("max_epochs")
    if RunDirectory.of_checkpoint(config["ckpt_path"]).summary.exists() and stopped_early(state):
        name = _early_stopping(config["callbacks"])
        raise UserError(
            f"trainer.max_epochs={shown(most)}: {run.path} has stopped early (after {epochs} epochs) by {name}, so it "
            f"trains no further: start a new run with a larger {name}.patience"
        )
    passed = most is not None and 0 <= most < epochs
    changed = any(config["trainer"].get(key) != known["trainer"].get(key) for key in _names(LIMITS))
    finished = run.summary.exists() and (not changed or epochs == most)
    finished |= epochs == most and not run.best_checkpoint.exists()
    most_time = config["trainer"].get("max_time")
    if finished and epochs != most and most_time is not None:
        raise UserError(
            f"trainer.max_time={shown(most_time)}: {run.path} has finished: give more time to train on"
        )
    if passed or finished:
        done = f"{run.path} has finished" if finished else f"{run.path} has trained for more"
        raise UserError(
            f"trainer.max_epochs={shown(most)}: {done} ({epochs} epochs): give a larger number to train on, such as "
            f"trainer.max_epochs={max(2 * epochs, (most or 0) + 1)}"
        )


def _check_steps(run: RunDirectory, most: int, steps: int) -> None:
    if 0 < most < steps or (most == steps and run.summary.exists()):
        raise UserError(
            f"trainer.max_steps={most}: {run.path} has finished ({steps} steps): give a larger number to train on, "
            f"such as trainer.max_steps={2 * steps}"
        )


def _refused(name: str, asked: Any, known: Any, ckpt_path: str) -> UserError:
    given = "no value" if asked is ABSENT else f"{shown(asked)}"
    before = "none" if known is ABSENT else shown(known)
    if known is ABSENT:
        remedy = f"leave {name} out (~{name})"
    else:
        remedy = f"use {'+' if asked is ABSENT else ''}{name}={shown(known)}"
    return UserError(
        f"{name}={given}: the run of ckpt_path={ckpt_path} has {before}, and a run resumes with its own settings: "
        f"{remedy}, or resume=RUN, which takes them all from the run"
    )


def _names(keys: tuple[str, ...]) -> list[str]:
    return [key.rpartition(".")[2] for key in keys]
