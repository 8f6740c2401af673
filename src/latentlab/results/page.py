"""The page: a table for each group of rows, the commands, and the rows without a run; and the same as JSON."""

import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from statistics import fmean
from typing import Any

from latentlab.cli.screen import printable
from latentlab.results.entries import Entry
from latentlab.results.rows import Protocol
from latentlab.run.results import Spread

TITLE = "Results"
INTRODUCTION = """\
`python -m latentlab.results` writes this page from the files of runs, and [{json}]({json}) with the same
numbers. Please cite a number with its command and its commit.

Signs are those of latentlab: an NLL is positive, and an ELBO is negative on binary images, both in nats per example.
With several seeds, a result is mean ± standard deviation over seeds. With one seed, it is the value with its standard
error over the test examples in brackets. The published ± is that of the source. † marks a run with another budget than
its protocol, which cannot be compared with the published figure. Hours are the time of one training as it was
measured, without validation and figures; other programs on the machine lengthen it. Of † runs, the hours of the whole
protocol on one CPU thread follow, extrapolated from the time of a step."""
CAPTION = "*Line: the bound by epoch. Circle: the result as a bound. Star: the published figure at the full budget.*"
PART = "†"
# The lines of a table in the README.
README_ROWS = 8
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
DIGITS = {"test/bits_per_dim": 3}


@dataclass(frozen=True)
class Line:
    """The entries of a row that share a budget, one for each seed.

    Attributes:
        protocol: the row.
        entries: the runs in the order of their seeds.
    """

    protocol: Protocol
    entries: Sequence[Entry]

    @property
    def spread(self) -> Spread:
        return Spread.of([each.value for each in self.entries])

    @property
    def error(self) -> float | None:
        """The standard deviation over seeds, or the standard error over the test examples for one seed."""
        return self.entries[0].error if len(self.entries) == 1 else self.spread.deviation

    @property
    def error_over(self) -> str:
        return "seeds" if len(self.entries) > 1 else "examples"

    @property
    def whole(self) -> bool:
        return self.entries[0].budget.whole

    @property
    def hours(self) -> float | None:
        known = [each.hours for each in self.entries if each.hours is not None]
        return fmean(known) if known else None

    def distinct(self, read: Callable[[Entry], Iterable[str]]) -> list[str]:
        """Return the different words that the entries have."""
        return list(dict.fromkeys(word for each in self.entries for word in read(each)))

    @property
    def train(self) -> str:
        """The command that trains these runs."""
        first, seeds = self.entries[0], ",".join(str(each.seed) for each in self.entries)
        several = ["-m"] if len(self.entries) > 1 else []
        words = [*(() if self.whole else first.limits), *first.devices, f"seed={seeds}"]
        command = _without(self.protocol.row.command, [word.partition("=")[0] for word in words])
        return " ".join(["python train.py", *several, command, *map(shlex.quote, words)])


def _without(command: str, keys: Sequence[str]) -> str:
    """Return the words of a command apart from those of some keys."""
    words = shlex.split(command)
    kept = [word for word in words if word.partition("=")[0].lstrip("+") not in keys]
    return command if kept == words else shlex.join(kept)


def lines(protocols: Sequence[Protocol], entries: Sequence[Entry]) -> tuple[list[Line], list[str]]:
    """Return a line for each row with a run, and a remark for each run that is in none.

    Runs with different budgets are never averaged. A row has those with the largest share of the protocol's budget.
    """
    found, remarks = [], []
    for protocol in protocols:
        own = [each for each in entries if each.protocol is protocol]
        chosen, others = _chosen(own)
        remarks += [f"left out {each.path}: {why} ({protocol.row.name})" for each, why in others]
        if chosen:
            found.append(Line(protocol, sorted(chosen, key=lambda each: each.seed)))
    return found, remarks


def _chosen(entries: Sequence[Entry]) -> tuple[list[Entry], list[tuple[Entry, str]]]:
    most = max(map(_rank, entries), default=(False, 0))
    best = [each.checksum for each in entries if _rank(each) == most]
    checksum = max(best, key=best.count, default="")
    chosen: dict[int, Entry] = {}
    others = []
    for each in entries:
        if _rank(each) != most:
            others.append((each, "another run has more of the protocol's budget"))
        elif each.checksum != checksum:
            others.append((each, "more of the other runs have other data (data.sha256, data.source.path)"))
        elif each.seed in chosen:
            others.append((each, f"{chosen[each.seed].path} has the same seed"))
        else:
            chosen[each.seed] = each
    return list(chosen.values()), others


def _rank(entry: Entry) -> tuple[bool, int]:
    # Early stopping may end the runs of a protocol after different numbers of epochs.
    return entry.budget.whole, 0 if entry.budget.whole else entry.budget.used


def markdown(
    protocols: Sequence[Protocol], found: Sequence[Line], figures: Mapping[str, str], data: str
) -> str:
    """Return the page.

    Args:
        protocols: all rows.
        found: those with runs.
        figures: the path of the learning curves of a table, by its title.
        data: the path of the JSON file.
    """
    tables = dict.fromkeys(line.protocol.row.table for line in found)
    parts = [f"# {TITLE}", INTRODUCTION.format(json=data)]
    for title in tables:
        own = [line for line in found if line.protocol.row.table == title]
        parts += [f"## {_plain(title)}", _numbers(own)]
        if title in figures:
            parts += [f"![Learning curves beside the published figures]({figures[title]})", CAPTION]
        parts += [_commands(own), *_notes(own)]
    missing = [each for each in protocols if all(line.protocol is not each for line in found)]
    return "\n\n".join([*parts, *(["## Not run", _not_run(missing)] if missing else [])]) + "\n"


def _numbers(found: Sequence[Line]) -> str:
    head = ["model", "data", "metric", "ours", "seeds", "published", "source", "budget", "hours"]
    return _table(head, [_cells(line) for line in found], right=(3, 4, 5, 8))


def _cells(line: Line) -> list[str]:
    row = line.protocol.row
    return [
        _plain(row.model),
        _plain(", ".join(line.distinct(lambda each: [each.data]))),
        _code(row.metric),
        ours(line),
        str(len(line.entries)),
        published(line.protocol),
        _plain(row.source or "-"),
        spent(line),
        _spent_hours(line),
    ]


def _commands(found: Sequence[Line]) -> str:
    return _table(["model", "commands", "commit", "machine"], [_made(line) for line in found])


def _made(line: Line) -> list[str]:
    commits = line.distinct(lambda each: each.commits or ("unknown",))
    machines = line.distinct(lambda each: [each.machine])
    return [
        _plain(line.protocol.row.model),
        _code(line.train, evaluate(line.protocol)),
        ", ".join(_code(_short(commit)) for commit in commits),
        _plain("; ".join(machines)),
    ]


def _notes(found: Sequence[Line]) -> list[str]:
    notes = [
        f"- {_plain(line.protocol.row.model)}: {_plain(line.protocol.row.note)}"
        for line in found
        if line.protocol.row.note
    ]
    return ["\n".join(dict.fromkeys(notes))] if notes else []


def _not_run(missing: Sequence[Protocol]) -> str:
    head = ["table", "model", "metric", "published", "source", "hours (CPU)", "hours (GPU)", "commands"]
    cells = [
        [
            _plain(each.row.table),
            _plain(each.row.model),
            _code(each.row.metric),
            published(each),
            _plain(each.row.source or "-"),
            _hours(each.row.hours_cpu),
            _hours(each.row.hours_gpu),
            _code(f"python train.py {each.row.command}", evaluate(each)),
        ]
        for each in missing
    ]
    return _table(head, cells, right=(3, 5, 6))


def evaluate(protocol: Protocol) -> str:
    """Return the command that evaluates a run of a row, "" if its training gives the result."""
    words = protocol.row.evaluate
    return "" if words is None else f"python evaluate.py run=RUN {words}"


def ours(line: Line) -> str:
    """Return the result of a line with its error, and with a mark for another budget than the protocol's."""
    digits = DIGITS.get(line.protocol.row.metric, 2)
    mean, mark = _number(line.spread.mean, digits), "" if line.whole else f" {PART}"
    if line.error is None:
        return f"{mean}{mark}"
    error = f"± {line.error:.{digits}f}" if len(line.entries) > 1 else f"({line.error:.{digits}f})"
    return f"{mean} {error}{mark}"


def published(protocol: Protocol) -> str:
    """Return the published figure with its error."""
    row, digits = protocol.row, DIGITS.get(protocol.row.metric, 2)
    if row.published is None:
        return "-"
    error = "" if row.published_error is None else f" ± {row.published_error:.{digits}f}"
    return f"{_number(row.published, digits).removesuffix('.00')}{error}"


def spent(line: Line) -> str:
    """Return the budget of a line and that of the protocol."""
    budgets = [each.budget for each in line.entries]
    low, high = min(each.used for each in budgets), max(each.used for each in budgets)
    used = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    first = budgets[0]
    if first.whole:
        return (
            f"{used} {first.unit}"
            if first.used == first.full
            else f"{used} of at most {first.full:,} {first.unit}"
        )
    return f"{used} of {first.full:,} {first.unit} ({_percent(first.share)} %) {PART}"


def summary(found: Sequence[Line], page: str) -> str:
    """Return the table of the README: whole protocols with a published figure, some from each table."""
    known = [line for line in found if line.whole and line.protocol.row.published is not None]
    tables = dict.fromkeys(line.protocol.row.table for line in known)
    columns = [[line for line in known if line.protocol.row.table == title] for title in tables]
    mixed = [line for rank in zip_longest(*columns) for line in rank if line is not None]
    chosen = [line for line in known if line in mixed[:README_ROWS]]
    cells = [
        [
            _plain(line.protocol.row.name),
            _code(line.protocol.row.metric),
            ours(line),
            published(line.protocol),
            str(len(line.entries)),
        ]
        for line in chosen
    ]
    rows = _table(["model", "metric", "ours", "published", "seeds"], cells, right=(2, 3, 4))
    return f"{rows}\n\nAll results, with the command and the commit of each, are on the page [{TITLE.lower()}]({page})."


def between(text: str, table: str) -> str:
    """Return a text with a table between its two markers.

    Raises:
        ValueError: if it does not have each marker once, in this order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"it needs a line {BEGIN} and a line {END} below it")
    return f"{text.partition(BEGIN)[0]}{BEGIN}\n{table}\n{END}{text.partition(END)[2]}"


def data(protocols: Sequence[Protocol], found: Sequence[Line]) -> str:
    """Return the page as JSON: a list of rows, those without runs with `runs` empty."""
    known = {id(line.protocol): line for line in found}
    rows = [_row(each, known.get(id(each))) for each in protocols]
    return json.dumps(_finite(rows), indent=1, allow_nan=False) + "\n"


def _finite(node: Any) -> Any:
    """Return a copy in which NaN and infinity, which JSON has not, are null."""
    if isinstance(node, Mapping):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def _row(protocol: Protocol, line: Line | None) -> dict[str, Any]:
    full, unit = protocol.limit
    return {
        **asdict(protocol.row),
        "full_budget": full,
        "unit": unit,
        **({"runs": []} if line is None else _result(line)),
    }


def _result(line: Line) -> dict[str, Any]:
    return {
        "ours": line.spread.mean,
        "error": line.error,
        "error_over": line.error_over,
        "n": len(line.entries),
        "whole_budget": line.whole,
        "train": line.train,
        "runs": [_run(each) for each in line.entries],
    }


def _run(entry: Entry) -> dict[str, Any]:
    named = ("seed", "value", "error", "data", "hours", "commits", "machine")
    return {
        "run": entry.path.name,
        **{name: getattr(entry, name) for name in named},
        "budget": {**asdict(entry.budget), "share": entry.budget.share},
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    rule = ["---:" if index in right else "---" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _hours(hours: float | None) -> str:
    return (
        "-"
        if hours is None
        else "< 0.01"
        if hours < 0.01
        else f"{hours:.2g}"
        if hours < 10
        else f"{hours:,.0f}"
    )


def _spent_hours(line: Line) -> str:
    full = line.protocol.row.hours_cpu
    return _hours(line.hours) if line.whole or full is None else f"{_hours(line.hours)} of {_hours(full)}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}" if share < 0.1 else f"{100 * share:,.0f}"


def _short(commit: str) -> str:
    return re.sub(r"^([0-9a-f]{10})[0-9a-f]*", r"\1", commit)


def _plain(text: str) -> str:
    # A name may come from a run of somebody else. It stays text in one cell.
    return re.sub(r"([|`\\\[\]])", r"\\\1", printable(text).replace("&", "&amp;").replace("<", "&lt;"))


def _code(*commands: str) -> str:
    return "<br>".join(_span(printable(command)) for command in commands if command)


def _span(text: str) -> str:
    """Return a span of code, which more backticks close than it holds in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " * (len(fence) > 1)
    return f"{fence}{space}{text.replace('|', chr(92) + '|')}{space}{fence}"
