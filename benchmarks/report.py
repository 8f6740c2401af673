"""The table of the results: on the terminal, as JSON, and in docs/performance.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from frame import Result

START, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
WORDS = {
    "reached": "below the goal",
    "missed": "above the goal",
    "no goal": "no goal",
    "failed": "failed",
}


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        name: the row's name.
        what: the row's description.
        value: the median of the ratios, or of the differences.
        least: the smallest.
        most: the largest.
        repeats: the number of alternations.
        ours: the median of latentlab's figures, with its unit.
        reference: that of the reference, "" if there is none.
        goal: the largest good value.
        verdict: the verdict in words.
        failure: the reason of a failure.
    """

    name: str
    what: str
    value: str
    least: str
    most: str
    repeats: int
    ours: str
    reference: str
    goal: str
    verdict: str
    failure: str

    @classmethod
    def of(cls, result: Result) -> "Line":
        row, values, unit = result.row, result.values, "MB" if result.row.difference else ""
        ours, reference = zip(*result.pairs, strict=True) if result.pairs else ((), ())
        return cls(
            row.name,
            row.what,
            *(_figure(part(values), unit) if values else "" for part in (median, min, max)),
            len(values),
            _figure(median(ours), row.unit) if ours else "",
            _figure(median(reference), row.unit) if reference and row.reference else "",
            "" if row.goal is None else _figure(row.goal, unit),
            WORDS[result.verdict],
            result.failure,
        )

    @property
    def spread(self) -> str:
        return f"{self.least} - {self.most}" if self.repeats > 1 else "one run" if self.repeats else ""


def _figure(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".strip()


def table(lines: Sequence[Line], details: Mapping[str, str]) -> str:
    """The table in Markdown, with the machine below it."""
    head = ["row", "what", "result", "spread", "goal", "verdict", "latentlab", "reference"]
    rows = [_cells(line) for line in lines]
    text = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    below = "\n".join(f"- {name}: {value}" for name, value in details.items())
    return f"{text}\n\n{below}\n"


def _cells(line: Line) -> list[str]:
    value = f"**{line.value}**" if line.value else line.failure
    return [
        f"`{line.name}`",
        line.what,
        value,
        line.spread,
        line.goal,
        line.verdict,
        line.ours,
        line.reference,
    ]


def terminal(line: Line) -> str:
    """A line of the table on the terminal."""
    if line.failure:
        return f"{line.name:17} failed: {line.failure}"
    goal = f", goal {line.goal}" if line.goal else ""
    compared = f": {line.ours} / {line.reference}" if line.reference else ""
    return f"{line.name:17} {line.value:>7}  ({line.spread}{goal}, {line.verdict}){compared}   {line.what}"


def write_json(path: Path, results: Sequence[Result], details: Mapping[str, Any]) -> None:
    """Write every figure of every alternation."""
    rows = {
        result.row.name: asdict(Line.of(result)) | {"pairs": result.pairs, "unit": result.row.unit}
        for result in results
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**details, "rows": rows}, indent=2) + "\n")


def replace_between(path: Path, text: str, start: str = START, end: str = END) -> None:
    """Replace the text between two markers of a file."""
    before, found, rest = path.read_text().partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{path} has no markers {start} and {end}")
    path.write_text(f"{before}{start}\n{text}{end}{after}")
