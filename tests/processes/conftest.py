"""Every test here starts without a launcher."""

import pytest
from launchers import LAUNCHED


@pytest.fixture(autouse=True)
def started_by_hand(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
