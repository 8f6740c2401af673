"""environment.json: versions, commits and the machine, for each start of a run."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from latentlab.run import environment
from latentlab.run.directory import RunDirectory
from latentlab.run.environment import MOST, add_session, describe

CONFIG = {"trainer": {"accelerator": "cpu"}, "module": {"model": {"_target_": "latentlab.models.vae.VAE"}}}


def sessions(path):
    return json.loads(path.read_text())["sessions"]


def test_a_run_lists_the_versions_behind_it(small):
    [session] = sessions(RunDirectory(small).environment)
    assert session["packages"]["torch"] == version("torch")
    assert {"latentlab", "pytorch-lightning", "hydra-core", "numpy"} <= session["packages"].keys()
    assert session["python"] == ".".join(map(str, sys.version_info[:3]))
    assert session["threads"] == torch.get_num_threads()
    assert "data=binarised_digits" in session["command"]


def test_a_resumed_run_adds_a_session(tmp_path):
    path = tmp_path / "environment.json"
    for resumed in (False, True, True):
        add_session(path, "train", CONFIG, resumed)
    assert len(sessions(path)) == 3
    add_session(path, "train", CONFIG, resumed=False)  # a new run
    assert len(sessions(path)) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sessions": 3}', '{"sessions": ' + "[" * 2000])
def test_a_damaged_file_is_replaced(tmp_path, text):
    path = tmp_path / "environment.json"
    path.write_text(text)
    add_session(path, "train", CONFIG, resumed=True)
    assert len(sessions(path)) == 1


def test_the_number_of_sessions_is_bounded(tmp_path):
    path = tmp_path / "environment.json"
    path.write_text(json.dumps({"sessions": [{}] * 1000}))
    add_session(path, "train", CONFIG, resumed=True)
    assert len(sessions(path)) == MOST and sessions(path)[-1]["command"] == "train"


def test_a_package_of_the_user_comes_with_its_version(monkeypatch):
    monkeypatch.setattr(environment, "packages_distributions", lambda: {"mine": ["numpy", "rich"]})
    node = {"trainer": {}, "likelihood": {"_target_": "mine.Layer"}}
    assert describe("", node)["packages"]["rich"] == version("rich")


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_the_commit_of_a_module_of_the_user(tmp_path, monkeypatch):
    def git(*words):
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    for name in [each for each in os.environ if each.startswith("GIT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "of_git.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import of_git  # noqa: F401

    node = {"trainer": {}, "likelihood": {"_target_": "of_git.Layer"}}
    git("init")
    assert "of_git" not in describe("", node)["commits"]  # not tracked
    git("add", "of_git.py")
    git("commit", "--message", "one", "--no-verify")
    commit = git("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as in a hook
    assert describe("", node)["commits"]["of_git"] == commit
    (tmp_path / "of_git.py").write_text("x = 2\n")
    assert describe("", node)["commits"]["of_git"] == f"{commit}-dirty"
    sys.modules.pop("of_git")
