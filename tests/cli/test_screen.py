"""The output of commands in terminals of four widths, and in a pipe."""

import logging
import re
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from latentlab.callbacks.progress import Bar
from latentlab.cli.screen import ScreenHandler, fitted, reflow, show_table, warn
from latentlab.sweeps.jobs import report
from latentlab.sweeps.jobs.job import Job, Outcome, Status

WIDTHS = pytest.mark.parametrize("width", [60, 80, 100, 200])
COMMAND = "`wandb sync /a/folder/with/a/long/name/and/an/even/longer/name/of/the/run/wandb`"
REASON = "training diverged: the bound is nan at epoch 1, step 1; lower optimizer.lr (epochs are kept)"
LABELS = [
    f"model=conv_ladder_vae callbacks.best.monitor=val/elbo optimizer.lr=0.00{n} seed=1" for n in (1, 2)
]


class Stream(StringIO):
    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def lines(written: str) -> list[str]:
    """Return the lines on a terminal without an edge after these characters."""
    rows, y, x = [[]], 0, 0
    for code, number, letter, character in re.findall(r"(\x1b\[\??(\d*)[\d;]*([A-Za-z]))|([^\x1b])", written):
        if letter == "A":
            y -= int(number or 1)
        elif letter == "K":
            rows[y] = []
        elif character == "\n":  # the driver of a terminal adds a carriage return
            y, x = y + 1, 0
            rows += [[] for _ in range(y + 1 - len(rows))]
        elif character == "\r":
            x = 0
        elif not code:
            rows[y] += [" "] * (x + 1 - len(rows[y]))
            rows[y][x] = character
            x += 1
    return ["".join(row).rstrip() for row in rows]


@pytest.fixture
def streams(monkeypatch, request):
    """Standard output and standard error, each of which is a terminal or a file."""
    found = []

    def replace(out: bool, err: bool, width: int) -> tuple[Stream, Stream]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        found[:] = [Stream(out), Stream(err)]
        if out and err:
            found[1] = found[0]  # one terminal shows both
        monkeypatch.setattr(sys, "stdout", found[0])
        monkeypatch.setattr(sys, "stderr", found[1])
        return found[0], found[1]

    handler = ScreenHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    yield replace
    root.removeHandler(handler)


def train() -> None:
    """The output of a training that logs while its bar is shown, and ends with an error."""
    shown = Bar(0.0)
    shown.refresh("epoch 1/2", 0.5, "train elbo -301.54  val elbo -304.90 (epoch 1)  3,550 examples/s")
    logging.getLogger("latentlab").warning(
        "W&B: no API key found, logging offline; %s sends it later", COMMAND
    )
    print("a line of a user's callback")
    shown.end_epoch("epoch 2/2", 1.0, "train elbo -301.54  val elbo -304.90  3,550 examples/s")
    shown.close()
    warn(f"error: {REASON}")


def sweep() -> None:
    """The output of a sweep whose second job fails."""
    one, two = (Job(Path(), (), label) for label in LABELS)
    done = Outcome(one, Status.FINISHED, "", 7500.0, {"test/elbo": -100.0})
    failed = Outcome(two, Status.FAILED, REASON, 6.0)
    progress = report.SweepProgress(2)
    progress.say("2 jobs, 1 at a time")
    progress.start()
    progress.started(one, "started")
    progress.ended(done, 7500.0, slots=1)
    logging.getLogger("latentlab").warning("a record is damaged and is passed over")
    progress.ended(failed, 6.0, slots=1)
    progress.close()
    report.show([done, failed])


@WIDTHS
@pytest.mark.parametrize("screen", [train, sweep])
def test_lines_fit_the_terminal_and_stand_apart_from_bars(streams, screen, width):
    out, _ = streams(True, True, width)
    screen()
    shown = lines(out.getvalue())
    assert [line for line in shown if len(line) > width and line != COMMAND] == []
    joined = " ".join(" ".join(shown).split())
    assert all(words in joined for words in ([COMMAND, f"error: {REASON}"] if screen is train else LABELS))
    assert not [line for line in shown if "━" in line and re.search("W&B|callback|record|started", line)]


def test_output_in_a_file_has_no_bar_and_whole_lines(streams):
    out, err = streams(False, False, 60)
    logging.getLogger("latentlab").warning(REASON)
    warn(REASON)
    assert (out.getvalue(), err.getvalue()) == (f"{REASON}\n", f"{REASON}\n")
    sweep()
    assert "\x1b" not in out.getvalue()


def test_a_bar_leaves_the_output_in_a_file(streams):
    out, err = streams(False, True, 80)
    train()
    assert COMMAND in out.getvalue() and "callback" in out.getvalue() and "\x1b" not in out.getvalue()
    assert COMMAND not in err.getvalue() and "━" in err.getvalue()


@WIDTHS
def test_a_line_is_broken_between_its_parts_and_words(width):
    line = f"finished    {LABELS[0]}  test/elbo -100.00  {REASON}  6 s  [1/2, about 6 s left]"
    text = fitted(line, width, indent=12 * " ")
    assert max(map(len, text.splitlines())) <= width
    assert "[1/2, about 6 s left]" in text and text.split() == line.split()
    assert COMMAND in fitted(f"run {COMMAND} later", width)


@WIDTHS
def test_a_help_text_fits(width):
    words = (
        "  python train.py prior=vamp objective=iwae objective.samples=50  another prior and another bound"
    )
    text = f"{words}\nmodel: {', '.join(['cnn_vae'] * 40)}\n  a  b"
    found = reflow(text, width).splitlines()
    assert max(map(len, found)) <= width
    assert found[0].startswith("  python train.py prior=vamp") and found[-1] == "  a  b"
    assert "".join("".join(found).split()) == "".join(text.split())


def test_a_table_of_many_columns_becomes_lines():
    console = Console(file=StringIO(), width=60)
    show_table(console, ["trial", *(f"optimizer.setting{n}" for n in range(5))], [["0001", *"abcde"]])
    text = console.file.getvalue()
    assert "0001  optimizer.setting0 a" in text and max(map(len, text.splitlines())) <= 60


def test_control_characters_are_written_out(capsys):
    warn("run \x1b[31mred\r\x07: failed\nnext")
    assert capsys.readouterr().err == "run \\x1b[31mred \\x07: failed\nnext\n"
