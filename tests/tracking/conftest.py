import os
import sys
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():  # it uses deprecated parts of pydantic
    warnings.simplefilter("ignore", DeprecationWarning)
    import wandb_workspaces.reports.v2  # noqa: F401

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "callbacks"))  # for toy.py

# Warnings of libraries about themselves, or about the toy.
LIBRARIES = [
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*does not have many workers.*",
]


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            for line in LIBRARIES:
                item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture(autouse=True)
def no_key(tmp_path, monkeypatch):
    """Remove all W&B settings and keys from the environment."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
