"""The errors of Hydra, OmegaConf and the system, each explained in one line with its remedy."""

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, MissingMandatoryValue

from latentlab.cli import mistyped
from latentlab.cli.overrides import shell
from latentlab.cli.script import conf_folder, config_name, group_options, user_folders, words
from latentlab.errors import UserError, did_you_mean

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_GPU = (
    "this build of torch finds no GPU: trainer=cpu trains without one "
    "(python -c 'import torch; print(torch.version.cuda)' prints None for a CPU build)"
)


# A word longer than this is cut in a message.
LONG = 300


def explain(error: BaseException) -> str:
    """Return one line that names the mistake and the remedy."""
    found = [put(error) for kind, put in EXPLANATIONS.items() if isinstance(error, kind)]
    line = " ".join((found[0] if found else str(error)).split())
    return re.sub(rf"\S{{{LONG},}}", lambda word: f"{word[0][:80]}...{word[0][-20:]}", line)


def of_hydra(error: BaseException, arguments: Sequence[str]) -> str | None:
    """Explain an error that Hydra raises without a class of its own, None for any other error."""
    said = str(error)
    if "Config group override" in said:  # model=3 or model=null
        return _unknown_option(arguments)
    if said.startswith("Unable to configure"):
        return f"hydra.job_logging: {error.__cause__ or said}"
    if said.startswith("Unexpected type for root"):
        return "a setting is below a key whose value is null: give the whole value, as in key={a:1}"
    return None


def _unknown_option(arguments: Sequence[str]) -> str:
    for argument in arguments:
        group, _, option = argument.partition("=")
        options = group_options(group)
        if options and option not in options:
            return f"{argument}: no such option ({group} has {', '.join(options)})"
        if group and (conf_folder() / group).is_dir() and not options:
            return f"{argument}: {group} has no options (--help lists the groups that have)"
    return "a group takes the name of one of its options (--help lists them)"


def _missing_option(error: Any) -> str:
    if error.missing_cfg_file is None:
        return f"{error}: name an existing folder, or leave the option out"
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return f"--config-name={option}: {conf_folder()} has no such config: leave the option out"
    options = error.options or group_options(group)
    return (
        f"{group}={option}: no such option{did_you_mean(option, options)} ({group} has {', '.join(options)})"
    )


def _composition(error: Any) -> str:
    said = " ".join(str(error).split())
    for pattern, put in COMPOSITIONS.items():
        if found := re.search(pattern, said):
            return put(found[1], error)
    return said


def _no_such_key(key: str, error: Any) -> str:
    if found := re.match(r"hydra/?\.?(sweeper|launcher)[./]", key):
        known = [each for each in _known_keys() if each != key]
        close = did_you_mean(key, known)
        return f"{key}: the chosen hydra/{found[1]} has no such setting{close} (a search needs sweep=optuna)"
    if (conf_folder() / key).is_dir() and config_name() == "train":
        return f"{key}: the chosen model has no {key}, so this would change nothing: leave it out"
    if f"~{key}" in words():
        return f"{key}: ~{key} leaves it out: leave out ~{key}"
    known = _known_keys()
    if key in known:  # of an option that the sweep chooses; Hydra looks at the default one
        given = next((word for word in words() if word.startswith(f"{key}=")), f"{key}=...")
        listed = given.replace("=", "=choice(", 1) + ")"
        return (
            f"{key}: only options of the sweep have it, so it needs the form of a sweep: type {shell(listed)}"
        )
    if key == "data.path":
        return f"{key}: only your own images have a path: add data=images"
    if key == "data.root":
        return f"{key}: the chosen data are not read from a folder: leave it out"
    if (name := re.match(r"logger\.(\w+)", key)) and name[0] not in known:
        return f"{key}: {name[1]} is not among the chosen loggers: leave it out, or choose logger={name[1]} as well"
    parent = key.rpartition(".")[0]
    extra = f"; +{key}=... passes an argument that the config does not list" if parent in known else ""
    return f"{key}: no such key or group{mistyped.suggestion(key, known)} (--help lists the groups{extra})"


def _there_already(key: str, error: Any) -> str:
    return f"+{key}: the config has {key} already: leave out the +"


def _wrong_value(override: str, error: Any) -> str:
    return f"{override}: {str(error.__cause__).splitlines()[0]}"


# Hydra's errors of composition by pattern. The group of each is the key or the override.
COMPOSITIONS: dict[str, Callable[[str, Any], str]] = {
    r"Could not override '([^'@]+)": _no_such_key,
    r"Could not delete from config\. '([^']+)' does not exist": _no_such_key,
    r"Could not append to config\. An item is already at '([^']+)'": _there_already,
    r"Multiple values for ([^ @]+)\.": _there_already,
    r"(\S+) appears more than once": _there_already,
    r"Error merging override (.+)": _wrong_value,
}


def _instantiation(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    _, nested, where = str(error).rpartition("full_key: ")
    if not nested:  # a part itself, such as the trainer
        where = re.sub(r"^Error in call to target '[\w.]*?(\w+)'.*", r"\1", str(error), flags=re.DOTALL)
    if "gpu backend" in str(cause):
        return f"{where}: {NO_GPU}"
    return f"{where}: {cause} (debug=traceback shows the traceback)"


def _override(error: Any) -> str:
    return mistyped.unreadable(str(error.override))


def _missing_value(error: Any) -> str:
    return f"{error.full_key} is needed: give it as {error.full_key}=..."


def _interpolation(error: Any) -> str:
    [key] = re.findall(r"key '([^']+)' not found", str(error)) or ["another key"]
    where = error.full_key or "the config"
    return (
        f"{where} needs {key}, which is missing: the chosen options do not go together "
        "(--help lists the options of each group)"
    )


def _resolution(error: Any) -> str:
    cause = error.__cause__
    return str(cause) if isinstance(cause, UserError) else f"{error.full_key}: {cause or error.msg}"


def _os_error(error: Any) -> str:
    if error.filename is None:
        return str(error)
    if error.errno in NO_SPACE:
        return f"{error.filename}: {error.strerror} (free some space)"
    key = "output_dir" if config_name() == "evaluate" else "hydra.run.dir"
    return f"{error.filename}: {error.strerror} (choose another place with {key}=DIR or data.root=DIR)"


EXPLANATIONS: dict[type[BaseException], Callable[[Any], str]] = {
    UserError: str,
    MissingConfigException: _missing_option,
    OverrideParseException: _override,
    ConfigCompositionException: _composition,
    InstantiationException: _instantiation,
    InterpolationKeyError: _interpolation,
    InterpolationResolutionError: _resolution,
    MissingMandatoryValue: _missing_value,
    OSError: _os_error,
}


def _known_keys() -> list[str]:
    GlobalHydra.instance().clear()
    name = config_name()
    # a sweep's first option
    plain = [word if "[" in word else word.partition(",")[0] for word in words()]
    found = [re.fullmatch(r"([\w/]+)(@[\w.:]*)?=\[?([\w./,-]+)\]?", word) for word in plain]
    grouped = [word[0] for word in found if word and set(word[3].split(",")) <= {*group_options(word[1])}]
    chosen = grouped if name == "train" else []  # evaluate.py has no groups of an experiment
    folders = ",".join(f"'{folder}'" for folder in user_folders())
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            config = compose(name, [*chosen, f"hydra.searchpath=[{folders}]"], return_hydra_config=True)
        except HydraException:  # another mistake in the chosen options
            config = compose(name, return_hydra_config=True)
    groups = list(config.hydra.runtime.choices)
    tasks = {key: node for key, node in _plain(config).items() if key != "hydra"}
    return [*groups, *_dotted(tasks), *_dotted(_plain(config.hydra), "hydra.")]


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config)


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if not key.startswith("_"):
            yield prefix + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
