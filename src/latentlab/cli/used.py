"""Settings without an effect: no part of the composed experiment reads them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from latentlab.cli.checks import Config, holds_call
from latentlab.cli.script import conf_folder, user_folders
from latentlab.errors import UserError

# The groups that a run builds. Every other group must be part of one of these.
ROOTS = ("module", "data", "trainer", "callbacks", "logger")
# The groups that hold any number of objects, each under its name.
NAMED = {"callbacks": "callback", "logger": "logger"}
# The other keys that a run reads.
READ = ("seed", "ckpt_path", "resume", "run", "compile", "validate_args", "names")


def check_used(raw: Config, overrides: Iterable[str], model: str) -> None:
    """Check that every setting on the command line, and every group of the chosen experiment, has an effect.

    Args:
        raw: the config with interpolations, which join the groups.
        overrides: the arguments of the command line.
        model: the option of the group `model`.

    Raises:
        UserError: for the first setting without an effect.
    """
    words = list(overrides)
    used = _used(raw)
    for word in words:
        group = _top(word)
        _check_read(raw, used, word, group)
        _check_entry(raw, word, group)
        if _is_idle(raw, used, group):
            raise UserError(
                f"{word}: {_owner(words, group, model)} has no {group}, so this would change nothing: leave it out"
            )
    for name in (word.partition("=")[2] for word in words if word.startswith("experiment=")):
        for group in _set_by(name):
            if _is_idle(raw, used, group):
                raise UserError(
                    f"experiment={name} sets {group}, which model={model} does not have: leave out the model, or "
                    "choose an experiment of its family"
                )


def _owner(words: Iterable[str], group: str, model: str) -> str:
    # The figures belong to the callbacks.
    chosen = [word for word in words if word.startswith("callbacks=") and group == "figures"]
    return chosen[-1] if chosen else f"model={model}"


def _top(word: str) -> str:
    """Return the top-level key that an override sets."""
    placed = re.match(r"\+*[\w/]+@(?:_global_\.)?(\w+)", word)
    return placed[1] if placed else re.split(r"[=.@]", word.lstrip("+~"), maxsplit=1)[0]


def _used(raw: Config) -> set[str]:
    used: set[str] = set()
    for root in ROOTS:
        _reach(raw, root, used)
    if HydraConfig.initialized():  # the run directory may be named after a setting
        used.update(_names_in(OmegaConf.to_container(HydraConfig.instance().cfg)))
    return used


def _reach(raw: Config, group: str, used: set[str]) -> None:
    if group in raw and group not in used:
        used.add(group)
        for name in _names_in(raw[group]):
            _reach(raw, name, used)


def _names_in(node: Any) -> list[str]:
    return re.findall(r"\$\{(\w+)[.}]", str(node))


def _is_idle(raw: Config, used: set[str], group: str) -> bool:
    node = raw.get(group)
    return group not in used and isinstance(node, Mapping) and holds_call(node)


def _check_read(raw: Config, used: set[str], word: str, group: str) -> None:
    node = raw.get(group)
    if not word.startswith("+") or group in (*READ, *used) or (holds_call(node) and "@" not in word):
        return
    if group in raw:  # else it is a group whose options set other keys
        raise UserError(f"{word}: no part of the experiment reads {group}: leave it out")


def _check_entry(raw: Config, word: str, group: str) -> None:
    node = raw.get(group)
    if not word.startswith("+") or not isinstance(node, Mapping):
        return
    entry = word.lstrip("+").partition("=")[0].split(".")[1:2]
    if entry and "_target_" in node and not node["_target_"]:
        raise UserError(f"{word}: the chosen {group} has no settings: leave it out")
    if entry and group in NAMED and not holds_call(node.get(entry[0])) and entry[0] not in _names_in(node):
        raise UserError(
            f"{word}: this is no {NAMED[group]}: give its class as +{group}.{entry[0]}._target_=CLASS"
        )


def _set_by(experiment: str) -> Iterator[str]:
    for folder in (conf_folder(), *user_folders()):
        path = folder / "experiment" / f"{experiment}.yaml"
        if path.is_file():
            node: Any = OmegaConf.to_container(OmegaConf.load(path))
            chosen = [key for each in node.pop("defaults", []) if isinstance(each, Mapping) for key in each]
            yield from (re.sub(r"^override /?|@.*", "", key) for key in chosen)
            yield from node
