"""Make a dashboard of a W&B project: `latentlab dashboards workspace|report ENTITY/PROJECT`.

A workspace is a saved view for everybody in the project. A report is a page with the same panels and texts. Options
may be given as `--name TITLE` or `name=TITLE`.
"""

import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from latentlab.cli.command import OneLineParser
from latentlab.cli.screen import warn
from latentlab.cli.script import typed
from latentlab.errors import UserError
from latentlab.run.files import write_text
from latentlab.tracking.wandb_key import REMEDY, has_key

FILTERS = {"data": "data set", "model": "model", "group": "sweep"}


class Dashboard(Protocol):
    """A workspace or a report that W&B's server can save."""

    url: str

    def save(self) -> "Dashboard":
        """Save it on the server."""


def main(words: Sequence[str]) -> None:
    """Save the dashboard and print its address, or print its JSON.

    Raises:
        UserError: for a mistake in the command line, without a key, or if the server refuses.
    """
    given = parse(words)
    if not given.dry_run and not has_key():
        raise UserError(f"no W&B API key found: {REMEDY}; --dry-run needs none")
    build = _build()
    filters = {key: getattr(given, key) for key in FILTERS if getattr(given, key)}
    project = build.Project(*given.project.split("/"), filters)
    dashboard = build.KINDS[given.kind](project, given.name, linked=not given.dry_run)
    if not given.dry_run:
        print(save(dashboard, f"the {given.kind} of {given.project}"))
    elif given.out:
        write_text(given.out, build.spec(dashboard) + "\n")
    else:
        print(build.spec(dashboard))


def parse(words: Sequence[str]) -> Namespace:
    """Parse the command line.

    Raises:
        UserError: for a mistake in it.
    """
    parser = OneLineParser(prog=typed("dashboards"), description="Make a dashboard of a W&B project.")
    parser.add_argument("kind", choices=("workspace", "report"))
    parser.add_argument("project", metavar="ENTITY/PROJECT")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the JSON; needs neither key nor network"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON of --dry-run to a file")
    parser.add_argument("--name", default="latentlab", metavar="TITLE", help="the title")
    for key, what in FILTERS.items():
        parser.add_argument(f"--{key}", help=f"show only the runs of one {what}")
    given = parser.parse_args([re.sub(r"^(\w+)=(?=.)", r"--\1=", word) for word in words])
    if not re.fullmatch("[^/]+/[^/]+", given.project):
        parser.error(f"{given.project}: not of the form ENTITY/PROJECT, such as my-team/latentlab")
    if given.out and not given.dry_run:
        parser.error("--out needs --dry-run")
    return given


def save(dashboard: Dashboard, what: str) -> str:
    """Save a workspace or a report, and return its address.

    Raises:
        UserError: if the server refuses it or cannot be reached.
    """
    try:
        return str(dashboard.save().url)
    except Exception as error:  # the library passes on whatever its transport raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what} was not saved: {reason}") from error


def _build() -> ModuleType:
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
        warn(f"error: {mistake}")
        sys.exit(1)
