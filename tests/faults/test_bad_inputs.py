"""Bad inputs, each refused before anything starts, in one line with its remedy."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import bad_values
import bad_words
import pytest
from bad_words import Bad
from commands import call
from forks import forked

# Seconds after the imports, for each process that wants a core. A busy machine may need another try.
LIMIT, TRIES = 3.0, 3


def limit() -> float:
    return LIMIT * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def all_rows() -> list[Bad]:
    """Return the bad command lines and the bad values of settings."""
    values = [Bad(kind, script, words, names) for kind, script, words, names in bad_values.written()]
    return [*bad_words.rows(), *values]


def short(rows: Iterable[Bad]) -> list[Bad]:
    """Return the first row of each kind."""
    kinds: dict[str, Bad] = {}
    for row in rows:
        kinds.setdefault(row.kind, row)
    return list(kinds.values())


def fault(row: Bad, status: int, out: str, err: str, home: Path) -> str:
    """Return the difference between a command's end and a refusal, "" if there is none."""
    lines = err.splitlines()
    checks = {
        f"exit status {status}": status == 1,
        f"{len(lines)} lines on standard error, the last {lines[-1:]}": len(lines) == 1,
        f"no error: {lines[:1]}": err.startswith("error: "),
        f"{row.names} not named in {err}": all(name in err for name in row.names),
        f"standard output {out[:80]!r}": not out,
        f"files {[path.name for path in home.rglob('*')][:3]}": not any(home.iterdir()),
    }
    return next((what for what, holds in checks.items() if not holds), "")


@pytest.mark.parametrize(
    "row", short(bad_words.rows()), ids=lambda row: f"{row.kind}: {' '.join(row.words[-2:])[:40]}"
)
def test_a_bad_input_is_refused_in_one_line(tmp_path, monkeypatch, row):
    monkeypatch.chdir(tmp_path)
    done = call(row.script, *row.words)
    assert fault(row, done.status, done.out, done.err, tmp_path) == "", done.err


@pytest.mark.faults
def test_all_bad_inputs_are_refused_in_one_line(tmp_path):
    faults: list[str] = []
    worst: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for number, row in enumerate(all_rows()):
        home = tmp_path / str(number)
        home.mkdir()
        for _ in range(TRIES):
            done = forked(row.script, *row.words, home=home)
            if done.seconds <= limit():
                break
        counts[row.kind] += 1
        worst[row.kind] = max(worst[row.kind], done.seconds)
        if found := fault(row, done.status, done.out, done.err, home):
            faults.append(f"{row.script} {' '.join(row.words)[:200]}: {found}")
        elif done.seconds > limit():
            faults.append(f"{row.script} {' '.join(row.words)[:200]}: {done.seconds:.1f} s")
    print(f"{'bad input':28} commands  longest, s")
    for kind, count in counts.items():
        print(f"{kind:28} {count:8}  {worst[kind]:10.1f}")
    print(f"{'all':28} {sum(counts.values()):8}  {max(worst.values()):10.1f}, {len(faults)} not refused well")
    assert not faults, "\n".join(faults)
    assert sum(counts.values()) >= 300
