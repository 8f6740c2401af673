"""Every test starts from the same seed, on one thread, with validated arguments of distributions.

The main process of pytest-xdist reads this file too, so torch is imported late.
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator

import forks
import pytest

# pytest-xdist sets it, and commands would take it for the width of a terminal.
os.environ.pop("COLUMNS", None)
# In the background, a shell makes the tests and their child processes ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of forked commands, which all workers use."""
    if not hasattr(config, "workerinput"):
        config.add_cleanup(forks.open_server())


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collections, which take a tenth of a second each with it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


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
