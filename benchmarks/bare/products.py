"""The matrix products of fully connected networks alone, for a number of rows.

    python benchmarks/bare/products.py --rows 500000 10,512,512,784

Each network is given by its widths. Rows pass in chunks that fit a cache. Two rounds are timed, and the first warms up.
"""

import argparse
from itertools import pairwise

import torch
from timed import epochs
from torch import nn

CHUNK = 2500


def network(widths: str) -> nn.Sequential:
    sizes = [int(width) for width in widths.split(",")]
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@torch.inference_mode()
def main(rows: int, widths: list[str]) -> None:
    networks = [network(each) for each in widths]
    inputs = [torch.randn(min(CHUNK, rows), each[0].in_features) for each in networks]
    for _ in epochs(2):
        for _ in range(0, rows, CHUNK):
            for each, x in zip(networks, inputs, strict=True):
                each(x)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("widths", nargs="+")
    parser.add_argument("--rows", type=int, default=500_000)
    given = parser.parse_args()
    main(given.rows, given.widths)
