"""Every test starts from the same seed, on one thread, with the arguments of distributions checked."""

from collections.abc import Iterator

import pytest
import torch
from torch.distributions import Distribution

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    """Seed torch, and undo what a run in this process switched."""
    torch.manual_seed(0)
    Distribution.set_default_validate_args(True)
    yield
