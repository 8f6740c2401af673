"""Every test starts from the same seed, on one thread, with the arguments of distributions checked."""

import signal
from collections.abc import Iterator

import oracles
import pytest
import torch
from torch.distributions import Distribution

torch.set_num_threads(1)
# A shell that starts the tests in the background has them ignore Ctrl-C, and with them all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    """Seed torch, and undo what a run in this process switched."""
    torch.manual_seed(0)
    Distribution.set_default_validate_args(True)
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note the z-scores of a test with its report, which reaches the main process from pytest-xdist's too."""
    oracles.COMPARISONS.clear()
    try:
        yield
    finally:
        if oracles.COMPARISONS:
            item.user_properties.append(("z", [len(oracles.COMPARISONS), max(oracles.COMPARISONS)]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many z-scores there were, and how large the largest."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    noted = [value for r in reports if r.when == "call" for name, value in r.user_properties if name == "z"]
    if noted:
        counts, largest = zip(*noted, strict=True)
        terminalreporter.write_line(f"z-scores: {sum(counts)} comparisons, largest |z| = {max(largest):.2f}")
