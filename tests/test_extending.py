"""The package of docs/extending.md, built from the page and used from an empty folder."""

import re
import shlex

import pytest
from commands import ROOT, call, refusal
from installed import Installed

from latentlab.run.directory import RunDirectory

PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
BLOCK = re.compile(r"\*\*`(\S+)`\*\*[^\n]*\n\n```\w+\n(.*?)```", re.S)
TRAIN = re.compile(r"^latentlab (train hydra\.searchpath=\S+ (?!-m).*)$", re.M)
SEARCH = "hydra.searchpath=[pkg://mylib.conf]"
SHORT = "logger=none callbacks=none trainer.max_epochs=1 +trainer.limit_train_batches=2 trainer.log_every_n_steps=1"


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The installed latentlab and the installed package of the page."""
    place = tmp_path_factory.mktemp("extended")
    for name, block in BLOCK.findall(PAGE):
        path = place / "mylib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    installed = Installed(place)
    installed.install(place / "mylib")
    return installed


@pytest.fixture(scope="module")
def trained(extended):
    """Two runs of the page, of which one is resumed. Both are evaluated, as the page says."""
    extended.run_all(
        f"latentlab train {SEARCH} experiment=bars {SHORT} hydra.run.dir=run",
        "latentlab evaluate run=run trust=[mylib] figures.draw=false nll.samples=2",
        "latentlab train resume=run trust=[mylib] trainer.max_epochs=2",
        f"latentlab train {SEARCH} model=bernoulli_mixture data=binarised_digits {SHORT} hydra.run.dir=family",
        "latentlab evaluate run=family trust=[mylib] figures.draw=false",
        f"latentlab train {SEARCH} -m experiment=bars {SHORT} seed=1 hydra.sweep.dir=sweep hydra.sweep.subdir=job",
    )
    return extended.home


def test_a_part_is_one_class_and_one_file():
    parts = [title for title in SECTIONS if title.startswith(("A ", "An "))]
    assert len(parts) == 4
    for title in parts:
        assert len(BLOCK.findall(SECTIONS[title])) == 2


def test_the_commands_of_the_page_compose(extended):
    commands = TRAIN.findall(PAGE)
    assert len(commands) >= 6
    extended.run_all(*(f"latentlab {command} --cfg job" for command in commands))


def test_the_package_trains_sweeps_resumes_and_evaluates(extended, trained):
    for name in ("run", "family"):
        assert RunDirectory(trained / name).evaluation.exists()
    assert RunDirectory(trained / "sweep" / "job").summary.exists()
    assert "max_epochs: 2" in RunDirectory(trained / "run").config.read_text()
    assert extended.strays.read_text() == ""


def test_a_package_is_trusted_by_name(trained, monkeypatch):
    line = refusal(call("evaluate.py", f"run={trained}/run"))
    assert "trust=[mylib]" in line and "LATENTLAB_TRUST=mylib" in line
    line = refusal(call("evaluate.py", f"run={trained}/run", "trust=[mylib]"))  # not installed here
    assert "there is no module mylib" in line and "install" in line
    monkeypatch.setenv("LATENTLAB_TRUST", "mylib")
    assert "mylib" in refusal(call("evaluate.py", f"run={trained}/run"))


def test_a_missing_package_of_configs_is_one_line():
    assert "pkg://nowhere.conf" in refusal(call("train.py", "hydra.searchpath=[pkg://nowhere.conf]"))


def test_the_options_of_a_package_are_suggested(extended, monkeypatch):
    monkeypatch.syspath_prepend(extended.packages)
    line = refusal(call("train.py", SEARCH, "likelihood=laplaze"))
    assert "did you mean laplace?" in line


def test_the_resume_command_names_the_configs_of_a_package(extended, tmp_path, monkeypatch):
    def crash(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.syspath_prepend(extended.packages)
    monkeypatch.setattr("latentlab.cli.report.conclude", crash)
    with pytest.raises(ZeroDivisionError) as crashed:
        call("train.py", SEARCH, "experiment=bars", *SHORT.split(), f"hydra.run.dir={tmp_path}/run")
    [note] = crashed.value.__notes__
    assert shlex.split(note.removeprefix("resume: python train.py ")) == [SEARCH, f"resume={tmp_path}/run"]
