import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# Warnings of the libraries about themselves, or about the small toy.
LIBRARIES = [
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*does not have many workers.*",
]


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            for line in LIBRARIES:
                item.add_marker(pytest.mark.filterwarnings(line))
