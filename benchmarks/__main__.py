"""The speed of latentlab on this machine, as ratios to bare loops.

    python benchmarks                      # all rows, under 10 minutes on two cores
    python benchmarks --quick              # smaller and noisier, under 2 minutes
    python benchmarks start epoch          # some rows
    python benchmarks steps                # the microseconds of a training step by its parts
    python benchmarks --tree ../other      # the latentlab of another working tree

The commands of a row take turns. A result is the median of their ratios.
"""

import argparse
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import machine
import report
from frame import HERE, Command, Failed, Processes, Result, measure, seconds
from rows import FULL, LONG, QUICK, ROWS, Size

STEPS = "steps"  # a table of its own
NAMES = *ROWS, STEPS


def main() -> int:
    given = _arguments()
    tree = given.tree.resolve()
    started, loaded = time.perf_counter(), machine.load()
    if warning := machine.warning(loaded):
        print(warning, file=sys.stderr)
    details = machine.describe(tree)
    print("\n".join(f"{name}: {value}" for name, value in details.items()), flush=True)
    processes = Processes(tree, given.threads, given.processor)
    usual = [name for name in ROWS if not (given.quick and name in LONG)]
    rows = [name for name in given.rows or usual if name != STEPS]
    results = run(rows, QUICK if given.quick else FULL, processes, given.repeats)
    if STEPS in given.rows:
        show_steps(processes)
    details |= {
        "clock": "processor time (but in neighbour and sweep)" if given.processor else "wall time",
        "load before": ", ".join(f"{name} {value:.2f}" for name, value in loaded.items()),
        "measured": f"{datetime.now():%Y-%m-%d}, in {time.perf_counter() - started:.0f} s{', quick' * given.quick}",
    }
    if results:
        report.write_json(given.json, results, details)
        print(f"{details['measured']}; every figure: {given.json}")
    if results and given.markdown:
        report.replace_between(given.markdown, report.table([*map(report.Line.of, results)], details))
    return int(any(result.failure for result in results))


def run(names: list[str], size: Size, processes: Processes, repeats: int | None) -> list[Result]:
    """Measure rows, and print each one when it is done."""
    results = []
    for name in names:
        row = ROWS[name](size)
        with TemporaryDirectory(prefix="benchmark-") as place:
            row = row if repeats is None else replace(row, repeats=repeats)
            results.append(measure(row, Path(place), processes))
        print(report.terminal(report.Line.of(results[-1])), flush=True)
    return results


def show_steps(processes: Processes) -> None:
    """Print the parts of a training step."""
    with TemporaryDirectory(prefix="benchmark-") as place:
        try:
            print(processes(Command(STEPS, ["steps.py"], seconds), Path(place)).out, flush=True)
        except Failed as error:
            raise SystemExit(f"steps failed: {error}") from error


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rows", nargs="*", type=_row, metavar="ROW", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="less work and fewer alternations")
    parser.add_argument(
        "--tree", type=Path, default=HERE.parent, help="the working tree whose latentlab is measured"
    )
    parser.add_argument("--threads", type=int, help="the threads of each process (default: its own choice)")
    parser.add_argument(
        "--processor", action="store_true", help="processor time, for a machine with other work"
    )
    parser.add_argument("--repeats", type=int, help="the number of alternations of every row")
    parser.add_argument(
        "--json", type=Path, default=_default(), help="the file of every figure (default: %(default)s)"
    )
    parser.add_argument("--markdown", type=Path, help="a file whose table between the markers is replaced")
    return parser.parse_args()


def _row(name: str) -> str:
    # argparse checks `choices` against the empty list of no rows too.
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f"there is no row {name!r} (choose from {', '.join(NAMES)})")
    return name


def _default() -> Path:
    return Path("outputs", "benchmarks", f"{datetime.now():%Y-%m-%d-%H%M%S}.json")


if __name__ == "__main__":
    sys.exit(main())
