"""The time to read a data set, and to iterate over one epoch of it.

    python benchmarks/data_loading.py [ROOT]

The data set is MNIST in the folder ROOT, or scikit-learn's digits if no folder is given.
"""

import sys
import time
from collections.abc import Callable

from latentlab.data import Digits, ImageData, StaticMNIST, TorchvisionData
from latentlab.protocols import Continuous, Dequantised, Discrete, Dynamic, Protocol, Static, Threshold


def seconds(work: Callable[[], object]) -> float:
    """The wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sources(root: str | None) -> list[ImageData]:
    """A data set for each protocol."""
    grey: list[Protocol] = [Threshold(), Dynamic(), Continuous(), Dequantised(), Discrete()]
    if root is None:
        return [Digits(protocol) for protocol in grey]
    return [*(TorchvisionData(protocol, root) for protocol in grey), StaticMNIST(Static(), root)]


def main() -> None:
    print(f"{'protocol':12s} {'images':>7s} {'read':>7s} {'epoch':>7s} {'test draw':>9s}   seconds")
    for data in sources(sys.argv[1] if len(sys.argv) > 1 else None):
        read = seconds(data.setup)
        loader = data.train_dataloader()
        epoch = min(seconds(lambda: sum(len(batch.y) for batch in loader)) for _ in range(3))  # noqa: B023
        draw = seconds(data.test_dataloader)
        print(f"{data.protocol.name:12s} {len(data.train.y):7d} {read:7.3f} {epoch:7.3f} {draw:9.3f}")


if __name__ == "__main__":
    main()
