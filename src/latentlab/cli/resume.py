"""`resume=RUN`: a command that takes every setting from a run, and the few settings that it may change.

`expand` reads the command line before Hydra composes it. `merge` puts the allowed overrides into the run's config.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from latentlab.cli.overrides import quoted, shell, shell_word
from latentlab.cli.script import config_folders, config_sources, typed
from latentlab.errors import UserError, did_you_mean
from latentlab.run.checkpoints import BUILT
from latentlab.run.config import leaves, shown
from latentlab.run.directory import RunDirectory
from latentlab.run.resuming import DEVICES, FREE, extends_cosine, is_among
from latentlab.run.trust import VARIABLE, Trusted, is_library, locate

Config = dict[str, Any]
# The parts of a config that are built.
PARTS = (*BUILT, "trainer", "logger")
RESUME = re.compile(r"[+]*resume=")
# Keys of the command itself, which are not settings of the run.
OWN = ("resume", "trust", "debug")
NEW = "a resumed run keeps its own settings: leave it out, or start a new run"


def expand(words: Sequence[str]) -> list[str]:
    """Return a command line with resume=RUN for Hydra, and other command lines unchanged.

    It gets the run directory. Its overrides may name keys that only the run's own config has.

    Raises:
        UserError: if there is no such run, or for words that a resumed run cannot have.
    """
    places = [word.partition("=")[2] for word in words if RESUME.match(word)]
    if not places or places[-1] in ("", "null"):
        return list(words)
    place = _place(_text(places[-1]), words)
    if place == RunDirectory(place.parent).checkpoints and place.is_dir():
        place = place.parent
    run = RunDirectory(place) if place.is_dir() else RunDirectory.of_checkpoint(place)
    if not run.config.exists() or not place.exists():
        raise UserError(f"resume={place}: there is no run here (a run directory holds config.yaml)")
    if "--cfg" in words or "-c" in words:
        raise UserError(
            f"--cfg: the settings of a resumed run are in {run.config}: leave out --cfg or resume="
        )
    others = [word for word in words if not RESUME.match(word)]
    kept = [each for word in others for each in _prepared(word, run)]
    return [*kept, quoted("resume", place), quoted("hydra.run.dir", run.path)]


def merge(saved: Mapping[str, Any], composed: Mapping[str, Any], overrides: Iterable[str]) -> Config:
    """Return the config of a run with the overrides of the command that resumes it.

    Args:
        saved: the config of the run, as plain data.
        composed: the config that Hydra composed of the overrides, with interpolations.
        overrides: the overrides.

    Raises:
        UserError: for the first override that a resumed run cannot have.
    """
    config = {"compile": False, "validate_args": False, **deepcopy(dict(saved))}
    cosine = extends_cosine(config)
    if "figures" in config["callbacks"]:  # the figures that are drawn
        config["figures"] = config["callbacks"]["figures"]
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        _put(config, composed, override.key_or_group, str(override.input_line).lstrip("+"))
    if "figures" in config and any(word.lstrip("+").startswith("figures") for word in overrides):
        config["callbacks"]["figures"] = config["figures"]
    if cosine:
        for scheduler in (config["scheduler"], config["module"]["scheduler"]):
            scheduler["T_max"] = config["trainer"]["max_epochs"]
    return config


def command(run: RunDirectory, config: Mapping[str, Any]) -> str:
    """Return the command that resumes a run, for a shell.

    A class of the user comes with its folder of configs or with the trust in its module. A run with another class of a
    library is resumed by its first command, whose config is not a saved one.

    Args:
        run: the run directory.
        config: the config of the run.
    """
    task = HydraConfig.get().overrides.task
    needed, words = _unlisted(config_folders("main"), config), [typed("train")]
    if needed and (own := _own_configs()):
        needed = _unlisted(config_folders(), config)
        words += map(shell, own)
    if any(map(is_library, needed)) and not any(map(RESUME.match, task)):
        return " ".join([*words, *_first_words(run, task)])
    if needed:
        words.insert(0, f"{VARIABLE}={','.join(needed)}")
    return " ".join([*words, shell_word("resume", run.path)])


def _own_configs() -> list[str]:
    """Return the words of this command that name config folders of the user, with absolute paths."""
    folders = [f"--config-dir={each.path}" for each in config_sources() if each.provider == "command-line"]
    searched = [each for each in config_sources() if each.provider == "hydra.searchpath in command-line"]
    places = [
        f"pkg://{each.path}" if each.schema == "pkg" else str(Path(each.path).absolute()) for each in searched
    ]
    plain = [place if re.fullmatch(r"[\w./:+-]+", place) else f"'{place}'" for place in places]
    return [*folders, *([f"hydra.searchpath=[{','.join(plain)}]"] if plain else [])]


def _unlisted(folders: Iterable[Path], config: Mapping[str, Any]) -> list[str]:
    trusted = Trusted.listed(folders)
    targets = {target for part in PARTS for target in trusted.unlisted(config[part], part)}
    # A package may offer a class that one of its modules defines.
    return sorted(
        {name for each in targets for name in (each.rpartition(".")[0], locate(each, "").__module__)}
    )


def _first_words(run: RunDirectory, overrides: Iterable[str]) -> list[str]:
    words = [shell(word) for word in overrides if not word.startswith("ckpt_path=")]
    checkpoint = run.resumable_checkpoint() or run.last_checkpoint
    return [*words, shell_word("ckpt_path", checkpoint), shell_word("hydra.run.dir", run.path)]


def _text(value: str) -> str:
    # A path may hold characters that Hydra wants quoted.
    try:
        return str(OverridesParser.create().parse_override(f"resume={value}").value())
    except Exception:
        return value


def _place(text: str, words: Sequence[str]) -> Path:
    from latentlab.tracking.artifacts import copy, is_artifact  # late, as pydantic is slow to import

    if not is_artifact(text):
        return Path(text).expanduser().absolute()
    # The run is resumed in a directory of its own, not in the cache.
    chosen = [_text(word.partition("=")[2]) for word in words if word.startswith("hydra.run.dir=")]
    new = chosen[-1] if chosen else Path("outputs", text.rpartition("/")[2].replace(":", "_"))
    return copy(text, "resume", Path(new).expanduser().absolute()).path


def _prepared(word: str, run: RunDirectory) -> list[str]:
    if word in ("-m", "--multirun") or re.match(r"hydra\.mode=.*multirun", word, re.IGNORECASE):
        raise UserError(
            f"{word}: resume= resumes one run, and a sweep resumes by its own command: leave out one"
        )
    if re.match(r"[+~]*hydra[./]|-", word):
        return [] if _same_place(word, run) else [word]
    if word.startswith("~"):
        raise UserError(
            f"{word}: {NEW} (logger=none leaves out the logger, figures=none the figures, figures.NAME=null one figure)"
        )
    if re.match(r"[+]*ckpt_path=", word):
        raise UserError(
            f"{word}: resume= names the checkpoint, so leave it out: resume=RUN/checkpoints/NAME.ckpt"
        )
    plain = re.sub(r"^callbacks\.figures\.", "figures.", word.lstrip("+"))
    # Hydra composes the default experiment, which may lack a key of the run.
    return [f"++{plain}"] if re.match(r"\w+\.[\w.]+=", plain) else [plain]


def _same_place(word: str, run: RunDirectory) -> bool:
    key, _, value = word.partition("=")
    if key != "hydra.run.dir":
        return False
    if Path(_text(value)).expanduser().absolute() != run.path:
        raise UserError(f"{word}: a resumed run goes on in {run.path}: leave it out")
    return True


def _put(config: Config, composed: Mapping[str, Any], key: str, word: str) -> None:
    if key == "debug" and composed.get("trainer", {}).get("detect_anomaly"):
        raise UserError(
            f"{word}: this is a run of one epoch: debug=traceback shows tracebacks of a resumed run"
        )
    if key in OWN:
        return
    if key == "trainer":
        _put_devices(config["trainer"], composed["trainer"])
    elif key in ("logger", "figures"):
        config[key] = _resolved(composed, key, config)
    elif is_among(key, FREE):
        _check_used(config, key, word)
        _set(config, key, _resolved(composed, key, config))
    else:
        _check_same(config, composed, key, word)


def _put_devices(trainer: Config, chosen: Mapping[str, Any]) -> None:
    for name in (key.rpartition(".")[2] for key in DEVICES):
        trainer.pop(name, None)
        if name in chosen:
            trainer[name] = chosen[name]


def _check_used(config: Config, key: str, word: str) -> None:
    group, _, inner = key.partition(".")
    name = inner.partition(".")[0]
    if group == "logger" and name not in config["logger"]:
        raise UserError(f"{word}: {name} is not among the loggers of this run: choose logger={name} as well")


def _check_same(config: Config, composed: Mapping[str, Any], key: str, word: str) -> None:
    """Check that an override repeats the run's own setting."""
    known = _find(config, key)
    if known is _MISSING:
        # A single name is a group, not a key within one.
        keys = [each for each, _ in leaves(config) if ("." in each) == ("." in key)]
        raise UserError(f"{word}: this run has no {key}{did_you_mean(key, keys)}, and {NEW}")
    option = config.get("names", {}).get(key)
    asked = _find(composed, key)
    if isinstance(asked, dict):
        asked = {name: value for name, value in asked.items() if not is_among(f"{key}.{name}", FREE)}
    # The name of the data is not an option where settings make it another set.
    same = word == f"{key}={option}" if option and key != "data" else _agrees(asked, known)
    if not same:
        own = option or ("another one" if isinstance(known, dict) else shown(known))
        raise UserError(
            f"{word}: this run has {key}={own}: {NEW}" if option else f"{word}: this run has {own}: {NEW}"
        )


def _agrees(asked: Any, known: Any) -> bool:
    # A value that other keys give is compared there.
    if isinstance(asked, str) and "${" in asked:
        return True
    if isinstance(asked, dict) and isinstance(known, dict):
        # A group's null stands for what the run has: a checksum, or a setting that an older version did not have.
        return all(asked.get(key) is None or _agrees(asked[key], known.get(key)) for key in {*asked, *known})
    return bool(asked == known)


def _resolved(composed: Mapping[str, Any], key: str, config: Config) -> Any:
    """Return a part of the composed config. Its references to other keys get the values of the run.

    Only plain values of the run are used, because its config may come from somebody else.
    """
    node = _find(composed, key)
    context = OmegaConf.create({"node": node})
    for name in re.findall(r"\$\{([a-zA-Z_][\w.]*)\}", str(node)):
        value = _find(config, name)
        if isinstance(value, dict | list) or value is _MISSING or "${" in str(value):
            raise UserError(
                f"{key}: it refers to {name}, for which this run has no plain value: give {key} itself"
            )
        OmegaConf.update(context, name, value, force_add=True)
    plain: Any = OmegaConf.to_container(context, resolve=True)
    return plain["node"]


def _set(config: Config, key: str, value: Any) -> None:
    *path, last = key.split(".")
    roots = [config, config["module"]] if path[0] in config["module"] else [config]
    for node in roots:
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value


def _find(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return _MISSING
        config = config[part]
    return config


_MISSING = object()
