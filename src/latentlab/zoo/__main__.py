"""`latentlab zoo` lists the models of the zoo, and `latentlab zoo add RUN NAME zoo=DIR` adds the best model of a run.

A model of the zoo is loaded by `latentlab.load("NAME")` and evaluated by `latentlab evaluate run=zoo:NAME`.
"""

import json
import os
import re
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from latentlab.cli.command import OneLineParser
from latentlab.cli.screen import say, show_table, terminal, warn
from latentlab.cli.script import typed
from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.run.environment import last_command
from latentlab.run.files import write_text
from latentlab.zoo import FOLDER, NAME, PREFIX, extra, files, models, read_expected, tolerance

# The parts of a checkpoint that a loaded model needs.
KEPT = ("state_dict", "global_step", "epoch", "pytorch-lightning_version")
# The draws of the latents per example for the number that a model must reproduce.
DRAWS = 16


def parse(words: Sequence[str]) -> Namespace:
    """Parse the command line.

    Raises:
        UserError: for a mistake in it.
    """
    text = __doc__ or ""
    parser = OneLineParser(prog=typed("zoo"), description=text.partition("\n\n")[0])
    parser.add_argument(
        "words", nargs="*", metavar="add RUN NAME", help="add the best model of a run under a name"
    )
    parser.add_argument("--zoo", type=Path, metavar="DIR", help=f"your zoo (default: the folder in {FOLDER})")
    given = parser.parse_args([re.sub(r"^zoo=", "--zoo=", word) for word in words])
    if given.words and (given.words[0] != "add" or len(given.words) != 3):
        parser.error("give nothing, or add RUN NAME")
    return given


def main(words: Sequence[str]) -> None:
    """List the models, or add one and print its folder.

    Raises:
        UserError: for a mistake in the command line, or a run that cannot be added.
    """
    given = parse(words)
    if given.words:
        print(add(Path(given.words[1]), given.words[2], given.zoo).path)
        return
    rows = [_row(run) for run in models(given.zoo).values()]
    console = terminal()
    show_table(console, ["model", "expected", "kB", "folder"], rows)
    say(console, f"`latentlab evaluate run={PREFIX}NAME` evaluates a model and checks the expected number")


def _row(run: RunDirectory) -> list[str]:
    size = sum(path.stat().st_size for path in files(run) if path.is_file()) / 1000
    return [run.path.name, _number(run), f"{size:.0f}", str(run.path.parent)]


def _number(run: RunDirectory) -> str:
    try:
        expected = read_expected(run)
    except (UserError, OSError):  # the other models are listed all the same
        return f"{run.expected.name} is damaged"
    if not expected:
        return ""
    return f"{expected['metric']} {expected['value']:.2f} +- {tolerance(expected, 1):.2g}"


def add(run: Path, name: str, folder: Path | None = None) -> RunDirectory:
    """Add the best model of a run to a zoo: its weights, its config and the test bound that it must reproduce.

    Raises:
        UserError: if the zoo has that name already, or if the run has no bound.
    """
    import torch  # late, as it is slow to import

    import latentlab

    own = folder or os.environ.get(FOLDER)
    if not own:
        raise UserError(f"name your zoo: zoo=DIR, or {FOLDER}=DIR in the environment")
    place = RunDirectory(Path(own).expanduser() / name)
    if not NAME.fullmatch(name) or place.path.exists():
        raise UserError(
            f"{place.path}: " + ("it is there already" if place.path.exists() else "this is no name")
        )
    trained = latentlab.load(run, device="cpu")
    bound = f"test/{trained.having('terms').bound}"
    expected = {"metric": bound, **_reproduced(trained), "command": _command(trained)}
    place.checkpoints.mkdir(parents=True)
    state = torch.load(trained.checkpoint, map_location="cpu", weights_only=True)
    torch.save({key: state[key] for key in KEPT if key in state}, place.best_checkpoint)
    for source, target in zip(_described(RunDirectory(trained.path)), _described(place), strict=True):
        if source.is_file():
            shutil.copyfile(source, target)
    write_text(place.expected, json.dumps(expected, indent=2) + "\n")
    return place


def _described(run: RunDirectory) -> tuple[Path, ...]:
    return run.config, *extra(run)


def _command(trained: Any) -> str:
    # The last command of the run, which may have been resumed, without its directory.
    return re.sub(r" ?hydra\.run\.dir=\S+", "", last_command(RunDirectory(trained.path).environment))


def _reproduced(trained: Any) -> dict[str, float]:
    bound = trained.model.bound
    once, often = (trained.terms(samples=samples)[bound].astype(np.float64) for samples in (1, DRAWS))
    noise = sqrt(np.mean((once - often) ** 2) / len(once))
    return {"value": round(often.mean(), 4), "noise": round(noise, 4), "samples": DRAWS}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as mistake:
        warn(f"error: {mistake}")
        sys.exit(1)
