"""The words of a command, checked before Hydra reads them."""

import warnings
from argparse import ArgumentError, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep

from latentlab.cli import mistyped
from latentlab.cli.overrides import as_text, rename_old_keys, shell, with_null, with_plus
from latentlab.cli.paths import PATHS, with_home
from latentlab.cli.script import group_options, source_folder, typed
from latentlab.errors import UserError
from latentlab.processes.devices import is_job

# Hydra shows or does one of these at a time.
MODES = ("run", "multirun", "cfg", "info", "shell_completion")
# Settings of a sweep, which a single run does not read.
OF_SWEEP = ("sweep", "hydra/sweeper", "hydra/launcher", "hydra.sweeper", "hydra.launcher", "hydra.sweep")
# Settings that Hydra or the command sets itself.
NOT_READ = (
    "hydra.runtime",
    "hydra.overrides",
    "hydra.job.num",
    "hydra.job.id",
    "hydra.help",
    "hydra.output_subdir",
)
# Groups of which a run takes several options, as in logger=[wandb,tensorboard].
SEVERAL = ("callbacks", "figures", "logger")


@dataclass(frozen=True)
class Words:
    """The words of a command.

    Attributes:
        options: Hydra's options, parsed.
        typed: the words of these options.
        overrides: the other words, as Hydra reads them.
    """

    options: Namespace
    typed: Sequence[str]
    overrides: Sequence[Override]

    @property
    def is_sweep(self) -> bool:
        modes = [each.value() for each in self.overrides if each.key_or_group == "hydra.mode"]
        return self.options.multirun or "MULTIRUN" in modes

    @property
    def is_single_run(self) -> bool:
        return not (self.is_sweep or self.options.cfg or self.options.info or self.options.help)


def read_words(words: Sequence[str], script: str) -> list[str]:
    """Return the words of a command with Hydra's options first, under today's names, with `~` expanded.

    Args:
        words: the words after the name of the script.
        script: "train" or "evaluate".

    Raises:
        UserError: for a word that Hydra cannot read, or that would have no effect.
    """
    check_characters(words)
    options, typed, rest = split_options(words)
    check_options(options, script)
    if options.shell_completion:
        return [*typed, *check_completion(rest)]
    if options.hydra_help:
        return ["--hydra-help"]
    rest = [with_plus(with_home(_with_option(word))) for word in rename_old_keys(rest, script)]
    pairs = pairwise(["", *rest])
    overrides = [mistyped.read(word, before, rest[index + 1 :]) for index, (before, word) in enumerate(pairs)]
    found = Words(options, typed, overrides)
    check_values(found)
    if script == "evaluate":
        check_added(found)
    check_mode(found)
    return [*typed, *rest]


def check_characters(words: Sequence[str]) -> None:
    """Refuse empty words and Windows line ends.

    Raises:
        UserError: for the first one.
    """
    for word in words:
        if not word.strip():
            raise UserError(f"{word!r} is an empty word: leave it out (a variable of the shell may be empty)")
        if word.endswith("\r"):
            raise UserError(
                f"{word!r} ends with a Windows line end: save the script with Unix line ends (dos2unix FILE)"
            )


def split_options(words: Sequence[str]) -> tuple[Namespace, list[str], list[str]]:
    """Return Hydra's options, their words, and the other words.

    Raises:
        UserError: for an unknown option, or one without its value.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    known = [name for action in parser._actions for name in action.option_strings]
    for index, word in enumerate(words):
        if word.startswith("-") and word.partition("=")[0] not in known:
            raise UserError(mistyped.dashed(word, words[index + 1 :], known))
    try:
        options, _ = parser.parse_known_intermixed_args(words)
    except ArgumentError as error:
        raise UserError(f"{error} (--hydra-help lists the options)") from error
    overrides = list(options.overrides)
    return options, [word for word in words if word not in overrides], overrides


def check_options(options: Namespace, script: str) -> None:
    """Refuse options of Hydra that have no effect, do not go together, or run what a file says.

    Raises:
        UserError: for the first one.
    """
    modes = [f"--{mode.replace('_', '-')}" for mode in MODES if getattr(options, mode)]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)} do not go together: leave one out")
    for name in ("resolve", "package"):
        if getattr(options, name) and not options.cfg:
            raise UserError(f"--{name} has no effect without --cfg: add --cfg job, or leave it out")
    if options.experimental_rerun:
        raise UserError("--experimental-rerun runs code from a file: use resume=RUN to resume a run")
    if options.config_name in {"train", "evaluate"} - {script}:
        raise UserError(f"--config-name={options.config_name}: use {typed(options.config_name)} instead")


def check_completion(words: Sequence[str]) -> Sequence[str]:
    """Return the words of `--shell-completion`.

    Raises:
        UserError: unless they are one command for one shell.
    """
    known = [
        f"{verb}={name}" for verb in ("install", "uninstall", "query") for name in ("bash", "zsh", "fish")
    ]
    if len(words) != 1 or words[0] not in known:
        raise UserError(f"--shell-completion takes one of {', '.join(known)}")
    return words


def check_values(words: Words) -> None:
    """Refuse a missing or empty value, and a part that cannot be left out.

    Raises:
        UserError: for the first one.
    """
    for each in words.overrides:
        _check_value(each)
        _check_hydra(each)


def check_added(words: Words) -> None:
    """Refuse further keys, which an evaluation does not read.

    Raises:
        UserError: for the first one.
    """
    for each in words.overrides:
        if str(each.input_line).startswith("+") and not _belongs(each.key_or_group, ("hydra",)):
            raise UserError(f"{each.input_line}: {typed('evaluate')} has no such setting (--help lists them)")


def check_mode(words: Words) -> None:
    """Refuse a setting of a sweep in a single run, and the reverse.

    Raises:
        UserError: for the first one.
    """
    for each in words.overrides:
        key, word = each.key_or_group, str(each.input_line)
        if words.is_single_run:
            _check_single(key, word, each)
        elif words.is_sweep:
            _check_sweep(key, word, each)


def _with_option(word: str) -> str:
    """Read None as null, or as the option none of a group that has one."""
    key, _, value = word.partition("=")
    if value == "None" and "none" in group_options(key):
        return f"{key}=none"
    return with_null(word)


def _check_value(override: Override) -> None:
    key, word = override.key_or_group, str(override.input_line)
    options = group_options(key)
    choose = f"{key}=OPTION ({key} has {', '.join(options)})" if options else f"{key}=VALUE"
    if not key:
        raise UserError(f"{word}: a key is missing: a setting has the form key=value")
    if override.is_delete() and "." not in key:
        raise UserError(f"{word}: {key} cannot be left out: choose {choose}")
    if word.endswith("=") and options:
        raise UserError(f"{word} has no value: choose {choose}")
    if word.endswith("=") and key in PATHS:
        raise UserError(f"{word} has no value: type {key}=PATH, or leave it out")
    if word.endswith("="):
        empty = shell(f'{key}=""')
        raise UserError(f"{word} has no value: type {key}=VALUE, or {empty} for an empty text")
    if key in PATHS and override.value() == "":
        raise UserError(f"{word}: the path is empty: give a path, or leave it out")
    if options and isinstance(override.value(), dict if key in SEVERAL else list | dict):
        raise UserError(f"{word}: {key} takes one option (with -m, {key}=a,b is a sweep): choose {choose}")


def _check_hydra(override: Override) -> None:
    key, word = override.key_or_group, str(override.input_line)
    if _belongs(key, NOT_READ) and override.value() is not None:
        raise UserError(f"{word} has no effect: leave it out")
    if key == "hydra.searchpath":
        _check_folders(word, override.value())


def _check_single(key: str, word: str, override: Override) -> None:
    if override.is_sweep_override():
        text = as_text(key, word.partition("=")[2])
        raise UserError(f"{word}: several values are a sweep: add -m (as one text: {text})")
    # A job of a sweep gets the sweep's own settings of its experiment.
    if _belongs(key, OF_SWEEP) and not is_job():
        raise UserError(f"{word} has no effect on a single run: add -m, or leave it out")


def _check_sweep(key: str, word: str, override: Override) -> None:
    if _belongs(key, ("hydra.run",)):
        raise UserError(f"{word} has no effect with -m: type hydra.sweep.dir=DIR, which holds the jobs")
    if not override.is_sweep_override():
        return
    if _belongs(key, ("sweep", "hydra")):
        raise UserError(f"{word}: {key} takes one value, which all jobs share")
    if not _points(key, override.value()):
        options = group_options(key)
        remedy = f"{key} has {', '.join(options)}" if options else "give at least one value"
        raise UserError(f"{word} is a sweep over nothing: {remedy}")


def _check_folders(word: str, folders: object) -> None:
    # Hydra warns of packages without __init__.py, although it reads them.
    warnings.filterwarnings("ignore", message=r"provider=hydra\.searchpath .* is not available")
    for folder in folders if isinstance(folders, list) else []:
        if source_folder(str(folder)) is None:
            package = " (a package must be installed, or its folder be in PYTHONPATH)"
            raise UserError(
                f"{word}: there is no folder {folder}{package if 'pkg://' in str(folder) else ''}"
            )


def _belongs(key: str, parents: Sequence[str]) -> bool:
    return any(key == parent or key.startswith((f"{parent}.", f"{parent}/")) for parent in parents)


def _points(key: str, sweep: object) -> bool:
    """Return True if a sweep has a value."""
    if isinstance(sweep, Glob):
        return bool(sweep.filter(group_options(key)))
    if isinstance(sweep, RangeSweep):
        return any(True for _ in sweep.range())
    return bool(sweep.list) if isinstance(sweep, ChoiceSweep) else True
