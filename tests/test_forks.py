"""The harness itself: a forked command is the command."""

import signal
import sys

import pytest
from commands import command
from forks import forked, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness reads /proc")


def test_a_forked_command_is_the_command(tmp_path):
    words = ("train.py", "model=nope")
    found, known = forked(*words, home=tmp_path), command(*words, home=tmp_path)
    assert (found.status, found.out, found.err) == (known.status, known.out, known.err)


def test_a_forked_command_trains_and_has_limits(tmp_path):
    arguments = ("data=binarised_digits", "logger=none", "callbacks=none", "encoder.hidden=[16]")
    done = forked("train.py", *arguments, "trainer.max_epochs=1", "hydra.run.dir=run", home=tmp_path)
    assert (done.status, done.err) == (0, "") and (tmp_path / "run" / "summary.json").exists()
    running = start("train.py", *arguments, "trainer.max_epochs=1000", "hydra.run.dir=long", home=tmp_path)
    assert running.finish(timeout=0.5).status == -signal.SIGKILL
