"""The benchmarks run. Their figures are not tested."""

import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from commands import ROOT, call, command

FOLDER = ROOT / "benchmarks"
sys.path.append(str(FOLDER))

import report  # noqa: E402
import scaling  # noqa: E402
import steps  # noqa: E402
from frame import Command, Failed, Finished, Processes, Result, Row, filled, measure, new_folder, training  # noqa: E402
from rows import ROWS, TINY  # noqa: E402

# Rows whose commands another row runs as well, and the sweep, which starts processes.
SHARED = {"neighbour", "digits", "digits_quiet", "nll_hierarchy", "evaluation", "memory", "help", "sweep"}


@pytest.fixture
def in_process(monkeypatch):
    """A runner of commands in this process, where the libraries are imported already."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("LATENTLAB_DATA", raising=False)

    def run(given: Command, place: Path) -> Finished:
        folder = new_folder(place)
        script, *rest = filled(given.words, place, folder, ROOT)
        if script == str(ROOT / "train.py"):
            done = call("train.py", *rest)
            assert done.status == 0, done.err
            return Finished(done.out, folder, seconds=1.0, peak=1.0)
        return Finished(_run(script, rest, monkeypatch), folder, seconds=1.0, peak=1.0)

    return run


def _run(script, words, monkeypatch):
    with monkeypatch.context() as patch, redirect_stdout(StringIO()) as out:
        patch.setattr(sys, "argv", [script, *words])
        patch.syspath_prepend(str(Path(script).parent))
        if script != "-c":
            runpy.run_path(script, run_name="__main__")
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("name", sorted({*ROWS} - SHARED))
def test_a_row_gives_a_ratio(tmp_path, in_process, name):
    result = measure(ROWS[name](TINY), tmp_path, in_process)
    assert not result.failure and len(result.values) == 1
    assert report.terminal(report.Line.of(result)).startswith(name)


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_the_parts_of_a_step(monkeypatch):
    monkeypatch.setattr(steps, "ROUNDS", 1)
    found = steps.step("ladder_vae", 1)
    assert {
        "loader",
        "encoder",
        "decoder",
        "networks between layers",
        "likelihood",
        "KL",
        steps.LIGHTNING,
    } <= {*found}
    assert "| **step** |" in steps.table({"ladder_vae": found})


def test_the_figure_of_epochs(tmp_path):
    times = {name: {point: 1.0 / point for point in points} for name, (points, _) in scaling.PANELS.items()}
    scaling.draw(tmp_path / "scaling.png", times, 100)
    assert (tmp_path / "scaling.png").stat().st_size > 1000


@pytest.mark.faults
def test_the_command_line(tmp_path):
    done = command(
        "benchmarks/__main__.py", "--quick", "sweep", "--json", str(tmp_path / "a.json"), home=tmp_path
    )
    assert done.status == 0, done.err
    assert "sweep" in done.out and (tmp_path / "a.json").is_file()


def _row(goal, **changed):
    ours, reference = (Command(name, [name], lambda done: float(done.out)) for name in ("ours", "reference"))
    return Row("row", "ours / reference", ours, reference, goal, **changed)


@pytest.mark.parametrize(("by_processor", "figure"), [(False, 2.5), (True, 1.5)])
def test_a_process_prints_the_time_of_its_epochs(tmp_path, by_processor, figure):
    lines = [
        f"epoch {n}: {n + 0.5} s, {n - 0.5} s of processor time" for n in (1, 2)
    ]  # the first one warms up
    run = Processes(ROOT, by_processor=by_processor)
    done = run(Command("epochs", ["-c", f"print({chr(10).join(lines)!r})"], training, cores=1), tmp_path)
    assert training(done) == figure and done.peak > 1 and done.seconds > 0


def test_the_last_line_of_a_process_that_fails_is_shown(tmp_path):
    wrong = Command("wrong", ["-c", "raise SystemExit('no such model')"], training)
    with pytest.raises(Failed, match="no such model"):
        Processes(ROOT)(wrong, tmp_path)


def test_an_unknown_row_is_refused_with_the_names_of_all_rows(tmp_path):
    done = command("benchmarks/__main__.py", "nonsense", home=tmp_path)
    assert done.status == 2 and "[]" not in done.err
    assert "'nonsense'" in done.err and "neighbour, " in done.err


def test_the_result_is_the_median_of_the_ratios_of_alternating_runs(tmp_path):
    figures, order = iter(["4", "2", "1", "9", "6", "2"]), []

    def run(given, place):
        order.append(given.name)
        return Finished(next(figures), place)

    result = measure(_row(goal=2.5), tmp_path, run)
    assert order == ["ours", "reference", "reference", "ours", "ours", "reference"]
    assert result.values == [2.0, 9.0, 3.0] and result.verdict == "missed"
    line = report.Line.of(result)
    assert (line.value, line.spread, line.ours) == ("3.00", "2.00 - 9.00", "6.00 s")


def test_a_failure_is_a_row_of_the_table(tmp_path):
    def run(given, place):
        raise Failed("no such model")

    line = report.Line.of(measure(_row(goal=1), tmp_path, run))
    assert line.verdict == "failed" and "no such model" in report.table([line], {})


def test_the_table_replaces_what_is_between_its_markers(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"above\n{report.START}\nold\n{report.END}\nbelow\n")
    line = report.Line.of(Result(_row(goal=None, difference=True), [(3.0, 1.0)]))
    report.replace_between(path, report.table([line], {"memory": "8 GB"}))
    text = path.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    assert "**2.00 MB**" in text and "- memory: 8 GB" in text
