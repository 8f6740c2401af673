"""summary.json and evaluation.json: the numbers and names that a run or an evaluation reports."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentlab.errors import UserError
from latentlab.run.files import write_text


def read_results(path: Path) -> dict[str, Any]:
    """Return the results in a file, {} if there is no file.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run the command again") from error
    if not isinstance(results, dict):
        raise UserError(
            f"{path} is damaged (it is not a mapping of names to results): delete it and run the command again"
        )
    return results


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results, in a new folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(dict(results), indent=2) + "\n")
