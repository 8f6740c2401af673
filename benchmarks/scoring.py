"""The time of `evaluate.py` on a run, without its start.

    python benchmarks/scoring.py RUN batch_size=1000 nll.samples=100

A first evaluation warms up. With `--less SETTING` the time of the same evaluation with this setting is subtracted, such
as `--less nll.samples=0` for the time of the NLL alone.
"""

import argparse
from tempfile import TemporaryDirectory

from bare.timed import now

import latentlab

QUIET = ("figures.draw=false", "mutual_information.examples=0", "accelerator=cpu")


def evaluate(run: str, settings: list[str]) -> tuple[float, ...]:
    """The seconds and the processor time of an evaluation."""
    with TemporaryDirectory() as folder:
        start = now()
        latentlab.evaluate(run, [*QUIET, f"output_dir={folder}", *settings])
        return tuple(after - before for after, before in zip(now(), start, strict=True))


def main(run: str, settings: list[str], less: str) -> None:
    lighter = [each for each in settings if each.partition("=")[0] != less.partition("=")[0]]
    evaluate(run, [*lighter, less] if less else settings)
    spent = evaluate(run, settings)
    if less:
        spent = tuple(a - b for a, b in zip(spent, evaluate(run, [*lighter, less]), strict=True))
    print(f"epoch 1: {spent[0]:.6f} s, {spent[1]:.6f} s of processor time", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--less", default="")
    given = parser.parse_args()
    main(given.run, given.settings, given.less)
