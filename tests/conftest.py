"""Every test starts from the same seed, on one thread, with validated arguments of distributions.

The main process of pytest-xdist reads this file too, so torch is imported late.
"""

import copy
import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import forks
import pytest

CONF = f"{forks.ROOT / 'conf'}{os.sep}"
# The files that take longest, in their order.
LONGEST = (
    *("test_parallel_runs.py", "test_installed.py", "test_endings.py", "test_extending.py", "test_sweep.py"),
    *("test_configs.py", "test_search_command.py", "test_search.py", "test_resuming.py", "test_wandb.py"),
    *("test_refusals.py", "test_trainer_flags.py", "test_dashboards.py", "test_history.py", "test_train.py"),
    *("test_classical_runs.py", "test_runner.py", "test_damaged_files.py", "test_clusters.py", "test_api.py"),
)
# pytest-xdist sets it, and commands would take it for the width of a terminal.
os.environ.pop("COLUMNS", None)
# In the background, a shell makes the tests and their child processes ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of forked commands, which all workers use."""
    if not hasattr(config, "workerinput"):
        config.add_cleanup(forks.open_server())


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores, up to four, because tests of processes wait."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cores + 1, 4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is left to one worker at the end."""
    items.sort(key=lambda item: [*LONGEST, item.path.name].index(item.path.name))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage during the imports, of which nearly everything stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collections, which take a tenth of a second each with it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or a library reports what is left as leaked


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def loaded_once() -> Iterator[None]:
    """Load each file of conf/ and of Hydra's own configs once in a process: every command loads about 80."""
    import hydra.conf
    from omegaconf import OmegaConf

    folders = (CONF, f"{os.path.dirname(hydra.conf.__file__)}{os.sep}")
    read, loaded = OmegaConf.load, {}

    def load(file: Any) -> Any:
        path = getattr(file, "name", None)
        if not isinstance(path, str) or not path.startswith(folders):
            return read(file)
        if path not in loaded:
            loaded[path] = read(file)
        return copy.deepcopy(loaded[path])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load)
        yield


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    """Seed torch, and switch the validation of distributions on again after a run in this process."""
    import torch

    torch.manual_seed(0)
    torch.distributions.Distribution.set_default_validate_args(True)
    yield


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small run without figures."""
    import runs

    return runs.train(tmp_path_factory.mktemp("small") / "run")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Attach the z-scores of a test to its report, which pytest-xdist sends to the main process."""
    oracles = sys.modules.get("oracles")  # it imports torch
    if oracles is None:
        return (yield)
    oracles.COMPARISONS.clear()
    try:
        return (yield)
    finally:
        if oracles.COMPARISONS:
            item.user_properties.append(("z", [len(oracles.COMPARISONS), max(oracles.COMPARISONS)]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of z-scores and the largest."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    noted = [value for r in reports if r.when == "call" for name, value in r.user_properties if name == "z"]
    if noted:
        counts, largest = zip(*noted, strict=True)
        terminalreporter.write_line(f"z-scores: {sum(counts)} comparisons, largest |z| = {max(largest):.2f}")
