"""Files that a reader sees whole, and the lock of a run directory."""

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.run.files import locked, replaced, write_text

# Holds the lock of a run directory until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from latentlab.run.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder" / "summary.json"
    write_text(path, "first")
    with replaced(path) as draft:
        draft.write_text("half")
        assert path.read_text() == "first" and draft.parent == path.parent
        draft.write_text("second")
    assert path.read_text() == "second"
    assert names(path.parent) == {"summary.json"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_error_leaves_the_old_file_and_no_draft(tmp_path, error):
    path = tmp_path / "summary.json"
    write_text(path, "first")
    with suppress(error), replaced(path) as draft:
        draft.write_text("half")
        raise error
    assert path.read_text() == "first"
    assert names(tmp_path) == {"summary.json"}


def test_draft_of_a_killed_writer_is_overwritten(tmp_path):
    (tmp_path / "summary.json.part").write_text("half of a long text")
    write_text(tmp_path / "summary.json", "whole")
    assert (tmp_path / "summary.json").read_text() == "whole"
    assert names(tmp_path) == {"summary.json"}


def test_new_file_has_the_usual_permissions(tmp_path):
    write_text(tmp_path / "new", "")
    (tmp_path / "usual").touch()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_two_writers_take_turns(tmp_path):
    path = tmp_path / "evaluation.json"
    texts = [letter * 10_000 for letter in "abcd"]
    writers = [threading.Thread(target=lambda t=t: [write_text(path, t) for _ in range(20)]) for t in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        with suppress(FileNotFoundError):
            assert path.read_text() in texts
    assert path.read_text() in texts
    assert names(tmp_path) == {"evaluation.json"}


def test_missing_run_directory_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoints"):
        write_text(tmp_path / "run" / "checkpoints" / "last.ckpt", "")
    assert not names(tmp_path)


def test_full_disk_is_reported_with_the_file(tmp_path):
    with pytest.raises(OSError, match=r"summary\.json") as raised, replaced(tmp_path / "summary.json"):
        raise OSError(28, os.strerror(28))  # as a write raises it, without a file name
    assert raised.value.errno == 28


def test_second_lock_is_refused_until_the_first_ends(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.lock():
        (run.path / "config.yaml").touch()
        with pytest.raises(UserError, match=rf"run: another process \({os.getpid()}\).*hydra\.run\.dir"):
            run.lock().__enter__()
        assert names(run.path) == {".lock", "config.yaml"}
    with run.lock():
        pass
    assert names(run.path) == {"config.yaml"}


def test_refused_run_leaves_no_directory(tmp_path):
    with pytest.raises(UserError), RunDirectory(tmp_path / "runs" / "today" / "first").lock():
        raise UserError
    assert not names(tmp_path)


def test_lock_of_a_killed_process_is_free(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=re.escape(f"({holder.pid})")):
        RunDirectory(tmp_path).lock().__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert names(tmp_path) == {".lock"}
    with RunDirectory(tmp_path).lock():
        pass
    assert not names(tmp_path)


def test_drafts_of_a_killed_process_are_removed(tmp_path):
    run = RunDirectory(tmp_path)
    run.checkpoints.mkdir()
    for path in (run.summary, run.best_checkpoint, run.last_checkpoint):
        path.with_name(f"{path.name}.part").touch()
    with replaced(run.evaluation) as draft, run.lock():  # another command evaluates the run
        draft.write_text("{}")
    assert names(run.path) == {"checkpoints", "evaluation.json"} and not names(run.checkpoints)


def test_new_programs_do_not_inherit_a_lock(tmp_path):
    with locked(tmp_path / ".lock"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    with locked(tmp_path / ".lock"):
        child.communicate(b"\n")


def test_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def no_locks(descriptor, operation):
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with RunDirectory(tmp_path).lock():
        pass
    assert str(tmp_path) in caplog.text


def test_a_checkpoint_in_the_working_directory_has_a_run(tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run" / "checkpoints")
    assert RunDirectory.of_checkpoint("best.ckpt").path == tmp_path / "run"
