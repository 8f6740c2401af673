"""The commands as calls from Python: checked in the same way, with every mistake as a UserError.

A call leaves the process as it was: Hydra's state, logging, signal handlers, random states and torch's settings.
"""

import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from latentlab.cli.command import WORDS, explained
from latentlab.cli.screen import ScreenHandler
from latentlab.cli.script import CALLED, conf_folder, user_folders
from latentlab.cli.words import read_words, split_options
from latentlab.errors import UserError
from latentlab.processes import threads

# Hydra, the seeds and the logging belong to the whole process. A callback may call again from the same thread.
_ALONE = threading.RLock()
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def composed(script: str, given: Sequence[str], *more: str) -> Iterator[tuple[DictConfig, Any]]:
    """Compose the config of a call, and yield it with Hydra's own config of the job.

    Args:
        script: "train" or "evaluate".
        given: the words of the command line: overrides, and `--config-dir=DIR`.
        more: the words that the call adds.

    Raises:
        UserError: for a mistake in them, or while another thread of this process runs a call.
    """
    if not _ALONE.acquire(blocking=False):
        raise UserError(
            "another thread of this process composes or trains already: wait until it ends "
            "(`python train.py -m` runs several trainings at a time)"
        )
    words = [*given, *more]
    called = CALLED.set((script, words))
    try:
        _check(given)
        with _hydra_restored(), explained():
            yield _composed(script, words)
    finally:
        CALLED.reset(called)
        _ALONE.release()


def _composed(script: str, words: Sequence[str]) -> tuple[DictConfig, Any]:
    _, _, overrides = split_options(WORDS[script](read_words(words, script)))
    version.setbase("1.3")
    path = create_config_search_path(str(conf_folder()))
    for folder in user_folders():
        if not folder.is_dir():
            raise UserError(f"--config-dir={folder}: there is no such folder")
        path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    loaded = Hydra.create_main_hydra2(script, path).compose_config(script, overrides, RunMode.RUN)
    # As Hydra does before it calls the function of a command.
    loaded.hydra.mode = RunMode.RUN
    HydraConfig.instance().set_config(loaded)
    with read_write(loaded.hydra.runtime), open_dict(loaded.hydra.runtime):
        loaded.hydra.runtime.output_dir = os.path.abspath(loaded.hydra.run.dir)
    HydraConfig.instance().set_config(loaded)
    if loaded.hydra.job.chdir:
        raise UserError(
            "hydra.job.chdir=true: a call from Python stays in its working directory: leave it out"
        )
    task = loaded.copy()
    with read_write(task), open_dict(task):
        del task["hydra"]
    return task, HydraConfig.get()


def _check(words: Sequence[str]) -> None:
    if isinstance(words, str):
        raise UserError(f"{words!r}: give a list of settings, such as ['model=vae', 'trainer.max_epochs=5']")
    for word in words:
        if not isinstance(word, str):
            raise UserError(f"{word!r} is not a setting: a setting is a text of the form 'key=value'")
        if word in ("-m", "--multirun") or word.lower().startswith("hydra.mode=multirun"):
            raise UserError(
                f"{word}: the jobs of a sweep are processes: start it on the command line (`python train.py -m ...`)"
            )
        if word.startswith("-") and not word.startswith(("--config-dir=", "-cd=")):
            raise UserError(f"{word}: this is an option of the command line: leave it out")


@contextmanager
def _hydra_restored() -> Iterator[None]:
    hydra, config, job = GlobalHydra.instance(), HydraConfig.instance(), JobRuntime.instance()
    before = hydra.hydra, config.cfg, job.conf.copy(), version.VersionBase.instance().version_base
    try:
        yield
    finally:
        hydra.hydra, config.cfg, job.conf = before[:3]
        version.VersionBase.instance().version_base = before[3]


@contextmanager
def process_restored() -> Iterator[None]:
    """Restore what a training changes in its process, and log to standard output as the command does."""
    with ExitStack() as stack:
        for restored in (_logging, _signals, _random, _torch, _environment, warnings.catch_warnings):
            stack.enter_context(restored())
        yield


@contextmanager
def _logging() -> Iterator[None]:
    root, drawing = logging.getLogger(), logging.getLogger("matplotlib")
    handlers, levels = root.handlers[:], (root.level, drawing.level)
    console = ScreenHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    console.addFilter(lambda record: not getattr(record, "shown", False))
    root.handlers[:] = [console]
    root.setLevel(logging.INFO)
    drawing.setLevel(logging.WARNING)  # it reports its font cache at first use
    try:
        yield
    finally:
        for added in set(root.handlers) - set(handlers):
            added.close()
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        drawing.setLevel(levels[1])


@contextmanager
def _signals() -> Iterator[None]:
    """Restore the handlers of signals. A signal that ended the block is then raised for them, and never SystemExit."""
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    received = 0
    try:
        yield
    except SystemExit as end:
        received = end.code - 128 if isinstance(end.code, int) else 0
        if received not in SIGNALS:
            raise RuntimeError(f"the training ended with the status {end.code}") from end
    finally:
        for number, handler in handlers.items() if main else ():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received)
        raise KeyboardInterrupt


@contextmanager
def _random() -> Iterator[None]:
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def _torch() -> Iterator[None]:
    import torch
    from torch.distributions import Distribution

    validates, benchmark = Distribution._validate_args, torch.backends.cudnn.benchmark
    number = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        threads.use(number)
        Distribution.set_default_validate_args(validates)
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(deterministic, warn_only=warns_only)


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        # W&B's service goes on for the next run of this process.
        for name in {*os.environ, *before} - {"WANDB_SERVICE"}:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
