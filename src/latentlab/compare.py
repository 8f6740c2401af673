"""A figure that compares runs by epoch: `python -m latentlab.compare RUN RUN ... out=FILE.png`.

A RUN is a run directory, or a folder with some below it, such as that of a multirun. Runs that differ in nothing but
their seed are drawn as their mean with a band of one standard deviation. Options: `metric=val/elbo` for another column
of metrics.csv, `first=5` to begin at a later epoch.
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from omegaconf import OmegaConf

from latentlab.errors import UserError
from latentlab.figures.drawing import save
from latentlab.run.config import leaves

USAGE = "usage: python -m latentlab.compare RUN RUN ... out=FILE.png [metric=val/elbo] [first=1]"
# What does not make another experiment: the seed, where results go, and what is composed of other parts.
APART = ("seed", "ckpt_path", "logger", "callbacks", "module", "validate_args")
SEEDS = ("data.seed", "data.source.seed")

Keys = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run: its names, what distinguishes it, and a metric by epoch.

    Attributes:
        names: the words under which it was reported.
        keys: its config by dotted key, without seeds and paths.
        curve: the metric by epoch, from 1; the mean where there are several values.
    """

    names: Mapping[str, str]
    keys: Keys
    curve: Mapping[int, float]


@dataclass(frozen=True)
class Band:
    """Runs that differ in their seed alone, by the epochs that all of them reached."""

    label: str
    epochs: Sequence[int]
    means: Sequence[float]
    errors: Sequence[float]
    runs: int


def compare(folders: Iterable[Path], metric: str = "val/elbo", first: int = 1) -> Figure:
    """The figure of the runs in some folders.

    Args:
        folders: run directories, or folders with run directories below them.
        metric: a column of metrics.csv.
        first: the first epoch to draw.

    Raises:
        UserError: for a folder without runs, a metric that was not logged, or nothing left to draw.
    """
    runs = [read_run(path, metric) for folder in folders for path in run_directories(folder)]
    return draw(bands(runs, first), metric)


def run_directories(folder: Path) -> list[Path]:
    """The run directories in a folder, itself among them.

    Raises:
        UserError: when there are none.
    """
    found = sorted(
        path.parent for path in folder.rglob("metrics.csv") if (path.parent / "config.yaml").exists()
    )
    if not found:
        raise UserError(f"{folder}: no run here (a run directory holds config.yaml and metrics.csv)")
    return found


def read_run(path: Path, metric: str) -> Run:
    """The run in a directory.

    Raises:
        UserError: when the metric was not logged by epoch.
    """
    config: Any = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
    curve, columns = read_curve(path / "metrics.csv", metric)
    if not curve:
        raise UserError(f"{path}: {metric} was not logged; choose metric= one of {', '.join(columns)}")
    keys = {
        key: value for key, value in leaves(config) if key.split(".")[0] not in APART and key not in SEEDS
    }
    return Run(config["names"], keys, curve)


def read_curve(path: Path, metric: str) -> tuple[dict[int, float], list[str]]:
    """A metric by epoch, from 1, and the names of all columns with metrics."""
    values = defaultdict(list)
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if row["epoch"] and row.get(metric):
                values[int(row["epoch"]) + 1].append(float(row[metric]))
    columns = [name for name in reader.fieldnames or [] if name.startswith(("train/", "val/"))]
    return {epoch: fmean(found) for epoch, found in sorted(values.items())}, columns


def bands(runs: Sequence[Run], first: int) -> list[Band]:
    """The runs, those of the same experiment together, in the order in which they were given.

    Raises:
        UserError: when runs of an experiment have no epoch in common from `first` on.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[repr(sorted(run.keys.items(), key=str))].append(run)
    members = list(groups.values())
    labels = label([group[0] for group in members])
    return [_band(name, group, first) for name, group in zip(labels, members, strict=True)]


def _band(name: str, runs: Sequence[Run], first: int) -> Band:
    common = set.intersection(*(set(run.curve) for run in runs))
    epochs = sorted(epoch for epoch in common if epoch >= first)
    if not epochs:
        raise UserError(f"{name}: no epoch from first={first} on that all {len(runs)} runs reached")
    values = [[run.curve[epoch] for run in runs] for epoch in epochs]
    errors = [stdev(each) if len(each) > 1 else 0.0 for each in values]
    return Band(name, epochs, [fmean(each) for each in values], errors, len(runs))


def label(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its model, and what else tells it from the others."""
    labels = [run.names["model"] for run in runs]
    for name in ("data", "prior", "objective"):
        labels = _told_apart(labels, [run.names.get(name, "") for run in runs])
    known = {key: None for run in runs for key in run.keys}
    # What the parts' own groups say first: `prior.num_components` before `model.prior.num_components`.
    for key in sorted(known, key=lambda key: key.startswith("model.")):
        shown = key.removesuffix("._target_")
        labels = _told_apart(labels, [f"{shown}={run.keys.get(key, '-')}" for run in runs])
    return labels


def _told_apart(labels: Sequence[str], words: Sequence[str]) -> list[str]:
    # Words are added where labels are the same and they are not.
    told = []
    for own, word in zip(labels, words, strict=True):
        twins = {other for same, other in zip(labels, words, strict=True) if same == own}
        told.append(f"{own}, {word}" if len(twins) > 1 else own)
    return told


def draw(groups: Sequence[Band], metric: str) -> Figure:
    """Lines with their bands, and the last values in the legend."""
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


def main(arguments: Sequence[str]) -> None:
    """Read the command line, and write the figure.

    Raises:
        UserError: for a mistake in it.
    """
    options = {"out": "", "metric": "val/elbo", "first": "1"}
    given = {key: value for key, _, value in (each.partition("=") for each in arguments) if key in options}
    folders = [Path(each) for each in arguments if each.partition("=")[0] not in options]
    options |= given
    if not folders or not options["out"].endswith(".png") or not options["first"].isdigit():
        raise UserError(USAGE)
    figure = compare(folders, options["metric"], int(options["first"]))
    print(save(figure, Path(options["out"]), caption=""))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as mistake:
        sys.exit(f"error: {mistake}")
