"""The profiler of `debug=profile`: the time of a run by the parts that its user knows."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from time import perf_counter
from typing import Any, NamedTuple

from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.trainer.states import TrainerFn

# The first pattern that Lightning's name of an action matches, and the part that it belongs to.
PARTS: tuple[tuple[str, str], ...] = (
    (r"^\[Logger\](\w+)", r"logger \1"),
    (r"Checkpoint|ResumeState|save_checkpoint", "checkpoints"),
    (r"^\[Callback\]Figures", "figures"),
    (r"^\[Callback\](\w+)", r"callback \1"),
    (r"train\w*_next$", "batches"),
    (r"\.training_step$", "forward"),
    (r"backward$", "backward"),
    (r"optimizer", "optimiser"),
    (r"val\w*_next$|validation", "validation"),
    (r"test\w*_next$|test", "scoring"),
)
REST = "Lightning"
INDENT = "  "
LEAST = 0.0005  # the share of the time from which a part has a row


class Part(NamedTuple):
    """The time of a part of a run, and the number of calls of its longest action."""

    seconds: float
    calls: int


class PartsProfiler(Profiler):
    """Lightning's actions, grouped into parts. The time of an action leaves out the actions inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.calls: Counter[tuple[str, str]] = Counter()
        self._open: list[tuple[str, float]] = []
        self._inside: list[float] = []
        self._watched: list[Logger] = []

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        super().setup(TrainerFn(stage).value, local_rank, log_dir)
        for logger in self._lightning_module.trainer.loggers:  # type: ignore[attr-defined]
            if logger not in self._watched:
                self._watched.append(logger)
                self._watch(logger)

    def _watch(self, logger: Any) -> None:
        # Lightning gives no name to the calls of a logger.
        log_metrics, name = logger.log_metrics, f"[Logger]{type(logger).__name__}"

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.profile(name):
                return log_metrics(*arguments, **named)

        logger.log_metrics = timed

    def start(self, action_name: str) -> None:
        self._inside.append(0.0)
        self._open.append((action_name, perf_counter()))

    def stop(self, action_name: str) -> None:
        name, started = self._open.pop()
        spent = perf_counter() - started
        key = str(self._stage), name
        self.seconds[key] += spent - self._inside.pop()
        self.calls[key] += 1
        if self._inside:
            self._inside[-1] += spent

    def describe(self) -> None:
        """Do nothing: the command writes the table of the whole run."""

    def parts(self, stage: str) -> dict[str, Part]:
        """Return the parts of a stage, "fit" or "test", the longest first."""
        actions = [action for of, action in self.seconds if of == stage]
        # The longest first, so that the calls of a part are those of its longest action.
        actions.sort(key=lambda action: -self.seconds[stage, action])
        found: dict[str, Part] = {}
        for action in actions:
            before = found.get(part(action), Part(0.0, self.calls[stage, action]))
            found[part(action)] = before._replace(seconds=before.seconds + self.seconds[stage, action])
        return dict(sorted(found.items(), key=lambda item: -item[1].seconds))


def part(action: str) -> str:
    """Return the part that an action of Lightning belongs to."""
    for pattern, name in PARTS:
        if match := re.search(pattern, action):
            return match.expand(name)
    return REST


def table(phases: Mapping[str, float], stages: Mapping[str, Mapping[str, Part]]) -> list[list[str]]:
    """Return the rows of a table: the phases of a run, and the parts of those that Lightning runs.

    The rest of such a phase is Lightning's own time, with the parts that are too short for a row.

    Args:
        phases: the seconds of each phase.
        stages: the parts of some phases.
    """
    total = sum(phases.values())
    rows = []
    for phase, seconds in phases.items():
        rows.append(_row(phase, Part(seconds, 0), total))
        found = stages.get(phase, {})
        parts = {name: each for name, each in found.items() if name != REST and each.seconds > LEAST * total}
        rows += [_row(INDENT + name, each, total) for name, each in parts.items()]
        if found:
            rest = seconds - sum(each.seconds for each in parts.values())
            rows.append(_row(f"{INDENT}rest, {REST}", Part(rest, 0), total))
    return [*rows, _row("sum", Part(total, 0), total)]


def _row(name: str, spent: Part, total: float) -> list[str]:
    each = f"{1e6 * spent.seconds / spent.calls:,.0f}" if spent.calls else ""
    calls = f"{spent.calls:,}" if spent.calls else ""
    return [name, f"{spent.seconds:.2f}", f"{spent.seconds / total:.1%}", calls, each]
