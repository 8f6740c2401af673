"""The frame around a script: renamed keys, signals, one-line errors, last lines and exit statuses."""

import atexit
import gc
import io
import logging
import os
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from latentlab.cli import resume
from latentlab.cli.explain import explain, of_hydra
from latentlab.cli.screen import show_help, warn
from latentlab.cli.script import config_name, words
from latentlab.cli.words import read_words
from latentlab.errors import UserError
from latentlab.processes import devices, ranks

# The last change of the words of a command line before Hydra reads them.
WORDS: dict[str, Callable[[list[str]], list[str]]] = {"train": resume.expand, "evaluate": list}
MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)


class one_line_errors(ContextDecorator):
    """Ends the process with one line on standard error for a user's mistake.

    `debug=...` shows the traceback instead.

    It has no state: a launcher for clusters pickles the function that it decorates.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, (*_mistakes(), RuntimeError)):
            return
        debugs = any(argument.startswith("debug=") for argument in sys.argv[1:])
        if debugs and not isinstance(error, MissingConfigException):
            return
        if devices.lost_a_peer(error) and (here := devices.launched()):
            _leave(here, error)
        if isinstance(error, _mistakes()):
            warn(f"error: {explain(error)}")
            print_notes(error)
            sys.exit(_status(error))


class MadeDirectories(Callback):
    """Notes which directories Hydra makes for a run, so that they are removed if they stay empty.

    Attributes:
        made: the directories, the innermost first.
    """

    made: ClassVar[list[Path]] = []

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        # ${hydra:...} reads the current HydraConfig, which Hydra sets a moment later.
        HydraConfig.instance().set_config(config)
        with suppress(OmegaConfBaseException, OSError):  # Hydra reports it
            self._note(config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config.copy())  # it makes the config read-only
        with suppress(OmegaConfBaseException, OSError):
            self._note(config.hydra.sweep.dir)

    @classmethod
    def _note(cls, directory: str) -> None:
        place = Path(directory).absolute()
        cls.made = [path for path in (place, *place.parents) if not path.exists()]

    @classmethod
    def remove_empty(cls) -> None:
        for path in cls.made:
            with suppress(OSError):
                path.rmdir()


class SweepEnvironment(Callback):
    """Prepares the environment variables of a sweep, which its jobs inherit with any launcher."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        from latentlab.tracking.wandb_key import leave_out_run  # late, as pydantic is slow to import

        if names := leave_out_run():
            warn(f"W&B: {', '.join(names)} left out, because each job is a run of its own")


class Output(io.FileIO):
    """A standard stream that discards its output once the reader has closed the pipe, as `| head -1` does."""

    def write(self, data: Any) -> int:
        with suppress(BrokenPipeError):
            return super().write(data) or 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        return len(data)

    @classmethod
    def text(cls, stream: Any) -> Any:
        """Return the same stream as an `Output`. The stand-ins of tests and notebooks stay as they are."""
        if stream not in (sys.__stdout__, sys.__stderr__) or not isinstance(stream, io.TextIOWrapper):
            return stream
        stream.flush()
        raw = io.BufferedWriter(cls(stream.fileno(), "w", closefd=False))
        lines = stream.line_buffering
        return io.TextIOWrapper(
            raw, stream.encoding, stream.errors, line_buffering=lines, write_through=False
        )


class OneLineParser(ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the options)")


def run(main: Callable[[], None]) -> None:
    """Run a `hydra.main` function.

    SIGTERM and SIGHUP raise SystemExit, so that the run is closed as failed. The exit status is 143 or 129, and 130
    after Ctrl-C. The last line on standard error is the command that resumes an interrupted run.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    sys.stdout, sys.stderr = Output.text(sys.stdout), Output.text(sys.stderr)
    logging.raiseExceptions = False  # a full disk must not fill the terminal
    handle(signal.SIGTERM, signal.SIGHUP)
    ranks.follow_parent()
    atexit.register(_collect_once)
    try:
        _run(main)
    except KeyboardInterrupt as interrupt:
        print_notes(interrupt)
        sys.exit(128 + signal.SIGINT)
    except SystemExit as end:
        print_notes(end)
        raise
    finally:
        MadeDirectories.remove_empty()
        sys.stdout.flush()


def _collect_once() -> None:
    # The interpreter collects garbage several times while it ends, and visits all objects of the libraries. That took
    # 1.2 s of processor time, instead of 0.5 with this. But Triton, which compilation and several ranks import, prints
    # 30 lines on standard error if its objects are still there at the end.
    if "triton._C.libtriton" in sys.modules:
        gc.unfreeze()  # a process that forked this one may have frozen them
        return
    gc.collect()
    gc.freeze()


@one_line_errors()
def _run(main: Callable[[], None]) -> None:
    script = config_name()
    sys.argv[1:] = WORDS[script](read_words(sys.argv[1:], script))
    with _hydra_explained(), _fitted_help(), _composed_once(), _listed_quickly():
        main()


@contextmanager
def _composed_once() -> Iterator[None]:
    """Let Hydra compose the config of a single run once.

    Hydra composes every config twice, first to read hydra.mode alone. That costs 0.15 s of processor time.
    """
    ask = Hydra.get_mode

    def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        compose: Any = hydra.config_loader.load_configuration
        try:
            config = compose(config_name, overrides, RunMode.RUN)
        except Exception:  # words of a sweep, or a mistake, which Hydra reports when it composes again
            return ask(hydra, config_name, overrides) if _sweeps(hydra, overrides) else None
        if config.hydra.mode is not None:
            return config.hydra.mode
        known = [*overrides, "hydra.mode=RUN"]  # the words to which Hydra extends those of a run

        def load(config_name: str, overrides: list[str], run_mode: RunMode, **others: Any) -> DictConfig:
            if (overrides, run_mode) != (known, RunMode.RUN):
                return compose(config_name, overrides, run_mode, **others)
            config.hydra.mode = RunMode.RUN
            config.hydra.overrides.hydra.append(known[-1])
            return config

        hydra.config_loader.load_configuration = load  # type: ignore[assignment, method-assign]
        return None

    Hydra.get_mode = get_mode  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = ask  # type: ignore[method-assign]


def _sweeps(hydra: Hydra, overrides: list[str]) -> bool:
    # True if a word has several values.
    with suppress(HydraException):
        parser = OverridesParser.create(config_loader=hydra.config_loader)
        return any(each.is_sweep_override() for each in parser.parse_overrides(overrides))
    return False


@contextmanager
def _listed_quickly() -> Iterator[None]:
    """Let Hydra's help list the options of a group from its sources.

    Hydra copies all sources for each group, although no word changes them here. That costs 0.6 s of processor time.
    """
    ask = ConfigLoaderImpl.get_group_options

    def options(
        loader: ConfigLoaderImpl, group_name: str, results_filter: Any = ObjectType.CONFIG, **words: Any
    ) -> list[str]:
        if any(words.values()):
            return ask(loader, group_name, results_filter, **words)
        return loader.repository.get_group_options(group_name, results_filter)

    ConfigLoaderImpl.get_group_options = options  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.get_group_options = ask  # type: ignore[method-assign]


@contextmanager
def _fitted_help() -> Iterator[None]:
    # Hydra prints the template of conf/hydra/help, which knows no width.
    if not (sys.stdout.isatty() and {"--help", "-h"} & {*sys.argv[1:]}):
        yield
        return
    try:
        with redirect_stdout(io.StringIO()) as text:
            yield
    finally:
        show_help(text.getvalue())


@contextmanager
def _hydra_explained() -> Iterator[None]:
    try:
        yield
    except (ValueError, AssertionError) as error:
        if (line := of_hydra(error, words())) is None:
            raise
        raise UserError(line) from error


@contextmanager
def explained() -> Iterator[None]:
    """Raise every mistake of the user as a UserError, whose one line names the remedy."""
    try:
        with _hydra_explained():
            yield
    except UserError:
        raise
    except _mistakes() as error:
        raise UserError(explain(error)) from error


def handle(*signals: signal.Signals) -> None:
    """End the process with SystemExit at these signals. One that is ignored, as under nohup, stays ignored.

    Only the main thread can handle signals.
    """
    for signum in signals if threading.current_thread() is threading.main_thread() else ():
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, terminate)


def terminate(signum: int, frame: Any) -> None:
    """Raise SystemExit with the status of a process that a signal ended."""
    signal.signal(signum, signal.SIG_DFL)  # a second signal ends the process at once
    sys.exit(128 + signum)


def print_notes(error: BaseException) -> None:
    """Print the notes of an exception on standard error. A traceback holds them already."""
    for note in getattr(error, "__notes__", ()):
        print(note, file=sys.stderr)


def _leave(here: devices.Launched, error: BaseException) -> NoReturn:
    # The parent of the ranks reports which rank died, so the first rank stays silent.
    if here.rank or os.environ.get(devices.PARENT) is None:
        reason = " ".join(str(error).split())
        print(f"error: rank {here.rank} lost another process of its job ({reason})", file=sys.stderr)
    sys.exit(ranks.LOST)


def _mistakes() -> tuple[type[BaseException], ...]:
    # Lightning's own error, if Lightning is imported already: importing it takes seconds.
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    return (*MISTAKES, *([lightning.MisconfigurationException] if lightning else []))


def _status(error: BaseException) -> int:
    mistakes = [each for each in (error, error.__cause__) if isinstance(each, UserError)]
    return mistakes[0].status if mistakes else UserError.status
