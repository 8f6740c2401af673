"""A figure that compares runs by epoch: `python -m latentlab.compare RUN RUN ... --out FILE.png`.

A RUN is a run directory, or a folder such as multirun/NAME with runs below it. Runs that differ in their seed only
are drawn as their mean, with a band of one standard deviation. Options may be given as `--out FILE` or `out=FILE`.
"""

import re
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from latentlab.cli.command import OneLineParser
from latentlab.errors import UserError
from latentlab.figures.drawing import save
from latentlab.run.config import leaves, read_config
from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import read_curve

# Config keys that do not make another experiment: the seed, places, and groups that are composed of other groups.
IGNORED = ("seed", "ckpt_path", "logger", "callbacks", "figures", "module", "validate_args")
SEEDS = ("data.seed", "data.source.seed")


@dataclass(frozen=True)
class Curve:
    """A metric of one run by epoch.

    Attributes:
        names: the run's `names`: model, data, prior, objective.
        keys: the config by dotted key, without seeds and places.
        values: the metric by epoch, from 1. An epoch with several values has their mean.
    """

    names: Mapping[str, str]
    keys: Mapping[str, Any]
    values: Mapping[int, float]


@dataclass(frozen=True)
class Band:
    """Runs that differ in their seed only, at the epochs that all of them reached."""

    label: str
    epochs: Sequence[int]
    means: Sequence[float]
    errors: Sequence[float]
    runs: int


def compare(folders: Iterable[Path], metric: str = "val/elbo", first: int = 1) -> Figure:
    """Draw the runs in some folders.

    Args:
        folders: run directories, or folders with runs below them.
        metric: a column of metrics.csv.
        first: the first epoch to draw.

    Raises:
        UserError: if a folder has no runs, a file is damaged, the metric was not logged, or no epoch is left.
    """
    runs = [read_run(run, metric) for folder in folders for run in RunDirectory.find(folder)]
    return draw(bands(runs, first), metric)


def read_run(run: RunDirectory, metric: str) -> Curve:
    """Read a metric of a run.

    Raises:
        UserError: if the metric was not logged, or a file is damaged.
    """
    config = read_config(run.config, needs={"names": dict})
    keys = {
        key: value for key, value in leaves(config) if key.split(".")[0] not in IGNORED and key not in SEEDS
    }
    return Curve(config["names"], keys, read_curve(run.metrics, metric))


def bands(runs: Sequence[Curve], first: int) -> list[Band]:
    """Group the runs by experiment, in their given order.

    Raises:
        UserError: if the runs of an experiment have no common epoch from `first` on.
    """
    groups: dict[str, list[Curve]] = defaultdict(list)
    for run in runs:
        groups[repr(sorted(run.keys.items(), key=str))].append(run)
    members = list(groups.values())
    labels = label([group[0] for group in members])
    return [_band(name, group, first) for name, group in zip(labels, members, strict=True)]


def _band(name: str, runs: Sequence[Curve], first: int) -> Band:
    common = set.intersection(*(set(run.values) for run in runs))
    epochs = sorted(epoch for epoch in common if epoch >= first)
    if not epochs:
        raise UserError(f"{name}: the {len(runs)} runs have no common epoch from first={first} on")
    values = [[run.values[epoch] for run in runs] for epoch in epochs]
    errors = [stdev(each) if len(each) > 1 else 0.0 for each in values]
    return Band(name, epochs, [fmean(each) for each in values], errors, len(runs))


def label(runs: Sequence[Curve]) -> list[str]:
    """Name each run by its model and the settings that distinguish it from the others."""
    labels = [run.names["model"] for run in runs]
    for name in ("data", "prior", "objective"):
        labels = _distinguished(labels, [run.names.get(name, "") for run in runs])
    known = {key: None for run in runs for key in run.keys}
    # The short key `prior.num_components` comes before its copy `model.prior.num_components`.
    for key in sorted(known, key=lambda key: key.startswith("model.")):
        shown = key.removesuffix("._target_")
        labels = _distinguished(labels, [f"{shown}={run.keys.get(key, '-')}" for run in runs])
    return labels


def _distinguished(labels: Sequence[str], words: Sequence[str]) -> list[str]:
    # Add a word only to equal labels with different words.
    longer = []
    for own, word in zip(labels, words, strict=True):
        found = {other for same, other in zip(labels, words, strict=True) if same == own}
        longer.append(f"{own}, {word}" if len(found) > 1 else own)
    return longer


def draw(groups: Sequence[Band], metric: str) -> Figure:
    """Draw a line and a band for each experiment, with the last values in the legend."""
    figure = Figure(figsize=(6.4, 4.4))
    axes = figure.add_subplot()
    for band in groups:
        spread = f" ± {band.errors[-1]:.2f} ({band.runs} seeds)" if band.runs > 1 else ""
        (line,) = axes.plot(band.epochs, band.means, label=f"{band.label}: {band.means[-1]:.2f}{spread}")
        low = [mean - error for mean, error in zip(band.means, band.errors, strict=True)]
        high = [mean + error for mean, error in zip(band.means, band.errors, strict=True)]
        axes.fill_between(band.epochs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        if len(band.epochs) == 1:
            line.set_marker("o")
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{metric}, nats per example")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, title="at the last epoch", fontsize=9, title_fontsize=9)
    return figure


def parse(words: Sequence[str]) -> Namespace:
    """Parse the command line.

    Raises:
        UserError: for a mistake in it.
    """
    parser = OneLineParser(
        prog="python -m latentlab.compare", description="Draw a metric of several runs by epoch."
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run directory, or a folder of runs"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the figure")
    parser.add_argument("--metric", default="val/elbo", help="a column of metrics.csv")
    parser.add_argument("--first", type=int, default=1, metavar="EPOCH", help="the first epoch to draw")
    given = parser.parse_args([re.sub(r"^(out|metric|first)=", r"--\1=", word) for word in words])
    if given.out.suffix != ".png":
        parser.error(f"--out={given.out}: not a .png file")
    return given


def main(words: Sequence[str]) -> None:
    """Write the figure and print its path.

    Raises:
        UserError: for a mistake in the command line or the runs.
    """
    given = parse(words)
    print(save(compare(given.runs, given.metric, given.first), given.out))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as mistake:
        sys.exit(f"error: {mistake}")
