"""What a search found: a table of the best trials, best.yaml, and figures."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from latentlab.figures.drawing import save
from latentlab.sweeps.search.space import Space
from latentlab.sweeps.search.study import DIRECTORY, DONE, REASON, Trials

SHOWN = 10
BEST = "best.yaml"
# Behind what is written over lines.
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
# The importance of a hyperparameter needs some trials to tell.
ENOUGH = 4


def report(trials: Trials, metric: str, maximises: bool) -> None:
    """Show the best trials, and write best.yaml and figures to the sweep's directory."""
    ranked = best_first(trials.of(TrialState.COMPLETE), maximises)
    print(f"{trials.directory}: {count(trials)}")
    if not ranked:
        return
    Console(soft_wrap=True, highlight=False).print(table(trials, ranked, metric))
    best = describe(ranked[0], trials.space, trials.run_directory(ranked[0]), metric)
    OmegaConf.save(OmegaConf.create(best), trials.directory / BEST)
    for name, figure in figures(trials.study, metric, maximises):
        save(figure, trials.directory / "figures" / f"{name}.png", caption=f"{len(ranked)} finished trials")
    print(f"best: {best['command']}\n{trials.directory / BEST}, figures: {trials.directory / 'figures'}")


def best_first(trials: Sequence[FrozenTrial], maximises: bool) -> list[FrozenTrial]:
    """The trials, which have scores, the best first."""
    return sorted(trials, key=score, reverse=maximises)


def score(trial: FrozenTrial) -> float:
    """The score of a trial that finished."""
    assert trial.value is not None
    return trial.value


def describe(trial: FrozenTrial, space: Space, directory: Path, metric: str) -> dict[str, Any]:
    """A trial by what it reached, and how to train it again."""
    overrides = [each for each in space.overrides(trial.params) if not each.startswith("sweep=")]
    return {
        metric: score(trial),
        "trial": trial.user_attrs[DIRECTORY],
        "directory": str(directory),
        "overrides": overrides,
        "command": f"python train.py {shlex.join(overrides)}",
    }


def table(trials: Trials, ranked: Sequence[FrozenTrial], metric: str) -> Table:
    """The best trials, and how many ended in which way."""
    keys = list(trials.space.distributions)
    shown = Table("trial", metric, *keys)
    for trial in ranked[:SHOWN]:
        values = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in map(trial.params.__getitem__, keys))
        shown.add_row(trial.user_attrs[DIRECTORY], f"{score(trial):.4f}", *values)
    return shown


def count(trials: Trials) -> str:
    """How many trials ended in which way, in words."""
    pruned = trials.of(TrialState.PRUNED)
    numbers = {
        "finished": len(trials.of(TrialState.COMPLETE)),
        "pruned": sum(REASON not in trial.user_attrs for trial in pruned),
        "diverged": sum(REASON in trial.user_attrs for trial in pruned),
        "failed": len(trials.given_up),
        "running elsewhere": len(trials.of(TrialState.RUNNING)),
    }
    return ", ".join(f"{number} {name}" for name, number in numbers.items() if number or name == "finished")


def figures(study: optuna.Study, metric: str, maximises: bool) -> Iterator[tuple[str, Figure]]:
    """The figures of a search by name; those that a search of few trials does not allow are left out."""
    yield "history", draw_history(study.get_trials(states=[TrialState.COMPLETE]), metric, maximises)
    curves = [trial for trial in study.get_trials(states=DONE) if len(trial.intermediate_values) > 1]
    if curves:
        yield "curves", draw_curves(curves, metric)
    trials = study.get_trials(states=[TrialState.COMPLETE])
    if len(trials) >= ENOUGH and len({score(trial) for trial in trials}) > 1:
        yield "importance", draw_importance(study, metric)
        yield "parallel", draw_parallel(trials, metric, maximises)


def draw_history(trials: Sequence[FrozenTrial], metric: str, maximises: bool) -> Figure:
    """The scores in the order in which the trials were begun, and the best so far."""
    figure, axes = _axes("trial", metric)
    scores = [score(trial) for trial in trials]
    axes.plot(range(1, len(scores) + 1), scores, "o", markersize=4, label="trials")
    best = list(accumulate(scores, max if maximises else min))
    axes.step(range(1, len(scores) + 1), best, where="post", label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure


def draw_curves(trials: Sequence[FrozenTrial], metric: str) -> Figure:
    """The metric by epoch of the trials that finished, in colour, and of those that were pruned."""
    figure, axes = _axes("epoch", metric)
    looks: Mapping[bool, Mapping[str, Any]] = {
        True: {"color": "tab:blue", "alpha": 0.6, "label": "finished"},
        False: {"color": "tab:red", "alpha": 0.6, "marker": "x", "markevery": [-1], "label": "ended early"},
    }
    for trial in trials:
        epochs = sorted(trial.intermediate_values)
        values = [trial.intermediate_values[epoch] for epoch in epochs]
        axes.plot(
            [epoch + 1 for epoch in epochs], values, linewidth=1, **looks[trial.state is TrialState.COMPLETE]
        )
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        *zip(*dict(zip(labels, zip(handles, labels, strict=True), strict=True)).values(), strict=True),
        frameon=False,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_importance(study: optuna.Study, metric: str) -> Figure:
    """How much of the metric's variation each hyperparameter explains (PED-ANOVA, https://arxiv.org/abs/2304.10255)."""
    importance = optuna.importance.get_param_importances(study)
    names = sorted(importance, key=importance.__getitem__)
    figure, axes = _axes(f"importance for {metric}", "")
    bars = axes.barh(names, [importance[name] for name in names])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    return figure


def draw_parallel(trials: Sequence[FrozenTrial], metric: str, maximises: bool) -> Figure:
    """Each trial as a line through its values, coloured by its score, the best on top."""
    figure, axes = _axes("", "")
    columns = [Column(key, trials) for key in trials[0].params]
    scores = [score(trial) for trial in trials]
    colours = ScalarMappable(Normalize(min(scores), max(scores)), "viridis" if maximises else "viridis_r")
    for trial in reversed(best_first(trials, maximises)):
        [colour] = colours.to_rgba(np.array([score(trial)]))
        heights = [column.height(trial) for column in columns]
        axes.plot(heights, color=colour, alpha=0.8, linewidth=1.2)
    for place, column in enumerate(columns):
        axes.axvline(place, color="0.7", linewidth=0.8, zorder=0)
        for height, text in column.marks():
            beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(text, (place, height), **beside, fontsize=7, bbox=PAPER, zorder=3)
    axes.set_xticks(range(len(columns)), [column.key for column in columns], fontsize=8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    figure.colorbar(colours, ax=axes, label=metric)
    return figure


class Column:
    """One hyperparameter of a figure with parallel axes, scaled to [0, 1].

    Args:
        key: its name.
        trials: the trials, all of which have it.
    """

    def __init__(self, key: str, trials: Sequence[FrozenTrial]) -> None:
        self.key = key
        distribution: Any = trials[0].distributions[key]
        is_choice = isinstance(distribution, CategoricalDistribution)
        self.choices = distribution.choices if is_choice else ()
        self.log = not is_choice and distribution.log
        self.ends = (0, len(self.choices) - 1) if is_choice else (distribution.low, distribution.high)

    def height(self, trial: FrozenTrial) -> float:
        """Where on the axis the value of a trial lies."""
        value = trial.params[self.key]
        return self._scaled(self.choices.index(value) if self.choices else value)

    def marks(self) -> list[tuple[float, str]]:
        """Heights with what they stand for."""
        if self.choices:
            return [(self._scaled(index), str(choice)) for index, choice in enumerate(self.choices)]
        return [(self._scaled(end), f"{end:.4g}") for end in self.ends]

    def _scaled(self, value: float) -> float:
        low, high = map(log, self.ends) if self.log else self.ends
        return 0.5 if low == high else ((log(value) if self.log else value) - low) / (high - low)


def _axes(xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
