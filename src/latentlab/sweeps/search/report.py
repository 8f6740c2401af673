"""The result of a search: a table of the best trials, best.yaml, and figures."""

import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from matplotlib import pyplot
from omegaconf import OmegaConf
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from latentlab.cli.screen import say, show_table, terminal
from latentlab.cli.script import typed
from latentlab.run.directory import RunDirectory
from latentlab.run.files import replaced, write_text
from latentlab.sweeps.search.space import Space
from latentlab.sweeps.search.study import DIRECTORY, DONE, REASON, Trials

SHOWN = 10
BEST = "best.yaml"
DPI = 160
SIZE = (9.0, 5.0)
# Importances of hyperparameters need a few trials.
ENOUGH = 4
# A legend of more curves is larger than the plot.
LEGEND = 12


def report(trials: Trials, metric: str, maximises: bool) -> None:
    """Print the best trials, and write best.yaml and figures to the sweep's directory."""
    ranked = best_first(trials.of(TrialState.COMPLETE), maximises)
    console = terminal()
    say(console, count(trials))
    say(console, f"search: {trials.directory}")
    if not ranked:
        return
    show_table(console, ["trial", metric, *trials.space.distributions], rows(trials, ranked))
    best = describe(ranked[0], trials.space, trials.run_directory(ranked[0]), metric)
    write_text(trials.directory / BEST, OmegaConf.to_yaml(OmegaConf.create(best)))
    folder = RunDirectory(trials.directory).figures
    draw(trials.study, metric, folder)
    print(f"best: {best['command']}")  # in one line, to copy
    say(console, f"saved in: {trials.directory / BEST}")
    say(console, f"figures: {folder}")


def best_first(trials: Sequence[FrozenTrial], maximises: bool) -> list[FrozenTrial]:
    """Sort finished trials by their score."""
    return sorted(trials, key=score, reverse=maximises)


def score(trial: FrozenTrial) -> float:
    """Return the score of a finished trial."""
    assert trial.value is not None
    return trial.value


def describe(trial: FrozenTrial, space: Space, directory: Path, metric: str) -> dict[str, Any]:
    """Return the contents of best.yaml: the trial's score, and the command that trains it again."""
    overrides = [each for each in space.overrides(trial.params) if not each.startswith("sweep=")]
    return {
        metric: score(trial),
        "trial": trial.user_attrs[DIRECTORY],
        "directory": str(directory),
        "overrides": overrides,
        "command": f"{typed('train')} {shlex.join(overrides)}",
    }


def rows(trials: Trials, ranked: Sequence[FrozenTrial]) -> list[list[str]]:
    """Return the name, the score and the values of the best trials."""
    shown = []
    for trial in ranked[:SHOWN]:
        found = [trial.params[key] for key in trials.space.distributions]
        values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in found]
        shown.append([trial.user_attrs[DIRECTORY], f"{score(trial):.4f}", *values])
    return shown


def count(trials: Trials) -> str:
    """Format the number of trials by outcome: `7 finished, 2 pruned`."""
    pruned = trials.of(TrialState.PRUNED)
    numbers = {
        "finished": len(trials.of(TrialState.COMPLETE)),
        "pruned": sum(REASON not in trial.user_attrs for trial in pruned),
        "diverged": sum(REASON in trial.user_attrs for trial in pruned),
        "failed": len(trials.given_up),
        "running elsewhere": len(trials.of(TrialState.RUNNING)),
    }
    return ", ".join(f"{number} {name}" for name, number in numbers.items() if number or name == "finished")


def draw(study: optuna.Study, metric: str, folder: Path) -> None:
    """Write Optuna's figures of a search as PNG files. Figures that need more trials are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    matplotlib.use("agg")  # opens no window
    for name, plot in _plots(study, metric).items():
        with _contained():
            figure = plot().figure
            with replaced(folder / f"{name}.png") as draft:
                figure.savefig(draft, format="png", dpi=DPI, bbox_inches="tight")


def _plots(study: optuna.Study, metric: str) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study, target_name=metric)
    }
    if any(len(trial.intermediate_values) > 1 for trial in study.get_trials(states=DONE)):
        found["curves"] = lambda: _curves(study, metric)
    scores = [score(trial) for trial in study.get_trials(states=[TrialState.COMPLETE])]
    if len(scores) >= ENOUGH and len(set(scores)) > 1:
        found["importance"] = lambda: plots.plot_param_importances(study, target_name=metric)
        found["parallel"] = lambda: plots.plot_parallel_coordinate(study, target_name=metric)
    return found


def _curves(study: optuna.Study, metric: str) -> Any:
    axes = plots.plot_intermediate_values(study)
    axes.set(xlabel="epoch, from 0", ylabel=metric)
    if (legend := axes.get_legend()) and len(axes.lines) > LEGEND:
        legend.remove()
    return axes


@contextmanager
def _contained() -> Iterator[None]:
    # Each of Optuna's plots leaves an open pyplot figure, a global style and a warning about experimental functions.
    before = set(pyplot.get_fignums())
    try:
        with warnings.catch_warnings(), matplotlib.rc_context({"figure.figsize": SIZE}):
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)
