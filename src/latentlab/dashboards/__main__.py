"""A dashboard of a W&B project: `python -m latentlab.dashboards workspace|report ENTITY/PROJECT [--dry-run]`.

A workspace is a saved view that everybody in the project can open, a report a page with the same panels and texts
between. Options: `data=`, `model=` and `group=` show the runs of one data set, model or sweep only; `name=` is the
title. `--dry-run` prints the JSON, or writes it to `out=FILE.json`, and needs neither a key nor the network.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentlab.errors import UserError
from latentlab.tracking.wandb_key import WAY_OUT, has_key

USAGE = (
    "usage: python -m latentlab.dashboards workspace|report ENTITY/PROJECT [--dry-run] [out=FILE.json] [name=TITLE] "
    "[data=OPTION] [model=OPTION] [group=SWEEP]"
)
KINDS = ("workspace", "report")
OPTIONS = ("out", "name", "data", "model", "group")
DRY = "--dry-run"


def main(arguments: Sequence[str]) -> None:
    """Read the command line; save the dashboard and print its address, or print its JSON.

    Raises:
        UserError: for a mistake in it, without a key, or when the server refuses.
    """
    kind, place, options, dry = parse(arguments)
    if not dry and not has_key():
        raise UserError(f"no W&B API key found: {WAY_OUT}; {DRY} needs none")
    build = _library()
    only = {name: value for name, value in options.items() if name in build.FILTERS}
    where = build.Place(*place, only)
    name = options.get("name", "latentlab")
    make = {"workspace": build.workspace, "report": lambda *given: build.report(*given, linked=not dry)}
    dashboard = make[kind](where, name)
    if not dry:
        print(save(dashboard, f"the {kind} of {'/'.join(place)}"))
    elif "out" in options:
        Path(options["out"]).write_text(build.spec(dashboard) + "\n")
    else:
        print(build.spec(dashboard))


def parse(arguments: Sequence[str]) -> tuple[str, list[str], dict[str, str], bool]:
    """The kind of dashboard, entity and project, options, and whether it is a dry run.

    Raises:
        UserError: for a mistake.
    """
    pairs = [argument.partition("=") for argument in arguments if "=" in argument]
    options = {key: value for key, _, value in pairs}
    words = [argument for argument in arguments if "=" not in argument and argument != DRY]
    unknown = [key for key, value in options.items() if key not in OPTIONS or not value]
    dry = DRY in arguments
    if len(words) != 2 or words[0] not in KINDS or unknown or ("out" in options and not dry):
        raise UserError(USAGE)
    place = words[1].split("/")
    if len(place) != 2 or not all(place):
        raise UserError(f"{words[1]}: not of the form ENTITY/PROJECT, such as my-team/latentlab")
    return words[0], place, options, dry


def save(dashboard: Any, what: str) -> str:
    """Save a workspace or a report, and return its address.

    Raises:
        UserError: when the server refuses, or cannot be reached.
    """
    try:
        return str(dashboard.save().url)
    except Exception as error:  # the library passes on whatever its transport raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what} was not saved: {reason}") from error


def _library() -> Any:
    try:
        from latentlab.dashboards import build
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "wandb_workspaces":
            raise
        raise UserError("wandb-workspaces is not installed: pip install 'latentlab[dashboards]'") from error
    return build


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as mistake:
        sys.exit(f"error: {mistake}")
