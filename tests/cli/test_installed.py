"""The installed package, away from the checkout: its commands, their completion, sweeps and resumed runs."""

import re
import subprocess
import sys
import tarfile
from itertools import chain

import pytest
from commands import QUICK, ROOT, call, refusal
from installed import Installed, copy_sources

from latentlab.run.directory import RunDirectory

COMPLETE = """
eval "$(latentlab -sc install=bash)"
complete_line() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$2 COMPREPLY=()
    hydra_bash_completion
    echo "${COMPREPLY[@]}"
}
complete_line "latentlab tr" 1
complete_line "latentlab train mod" 2
complete_line "latentlab train seed=1 model=vd" 3
complete_line "latentlab evaluate nll." 2
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def swept(installed):
    """A sweep of two jobs, one of them evaluated, resumed and shown in a table."""
    quick = " ".join(QUICK)
    printed = installed.run_all(
        f"latentlab train -m {quick} seed=1,2 hydra.sweep.dir=sweep 'hydra.sweep.subdir=${{seed}}'",
        "latentlab evaluate run=sweep/1 nll.samples=2 figures.draw=false",
        "latentlab train resume=sweep/2 trainer.max_epochs=2",
        "latentlab evaluate run=zoo:vae_digits nll.samples=0 figures.draw=false output_dir=zoo",
        "latentlab compare sweep table=markdown",
    )
    return installed.home / "sweep", printed


def test_the_installed_commands_train_sweep_resume_and_evaluate(swept):
    sweep, printed = swept
    assert RunDirectory(sweep / "1").evaluation.exists()
    assert (sweep / "results.csv").exists()
    assert "reproduces" in printed
    rows = printed.split("| --- |")[1]
    assert "trainer.max_epochs=1 |" in rows and "trainer.max_epochs=2 |" in rows


def test_no_file_of_the_checkout_is_used(installed, swept):
    assert installed.strays.read_text() == ""


def test_the_published_rows_are_installed(installed):
    assert (installed.packages / "latentlab" / "results" / "published.yaml").is_file()


def test_a_sweep_starts_its_jobs_with_the_installed_command(swept):
    sweep, _ = swept
    assert "-m latentlab train" in (sweep / "1" / "job.log").read_text()


def test_bash_completes_commands_groups_options_and_keys(installed):
    done = installed.run("bash", "-c", COMPLETE)
    commands, groups, options, keys = done.out.splitlines()
    assert commands == "train"
    assert "model=" in groups.split()
    assert options == "model=vdm"
    assert "nll.samples=" in keys.split()


def test_the_group_answers_without_slow_imports(installed):
    code = (
        "import sys; sys.argv = ['latentlab']; from latentlab.__main__ import main; main();"
        "assert not {'torch', 'hydra', 'pytorch_lightning'} & set(sys.modules)"
    )
    done = installed.run(sys.executable, "-c", code)
    assert done.status == 0, done.err
    for name in ("train", "evaluate", "compare", "results", "classifier", "zoo", "dashboards"):
        assert f"latentlab {name} " in done.out
    assert installed.run("latentlab", "--version").out == f"latentlab {version()}\n"


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("trian", "did you mean train?"),
        ("model=vae", "latentlab train model=vae"),
        ("-m", "latentlab train -m"),
    ],
)
def test_a_word_that_is_no_command_is_one_line(installed, word, remedy):
    assert remedy in refusal(installed.run("latentlab", word))


def test_messages_name_the_command_that_works_here(installed):
    assert "latentlab evaluate has no" in refusal(installed.run("latentlab", "evaluate", "+depth=3"))
    assert "evaluate.py has no" in refusal(call("evaluate.py", "+depth=3"))


def test_help_shows_commands_that_work_here(installed):
    assert "\n  latentlab train -m " in installed.run("latentlab", "train", "--help").out
    assert "\n  python train.py -m " in call("train.py", "--help").out


def test_the_source_distribution_holds_configs_models_and_license(tmp_path):
    copy_sources(tmp_path / "sources")
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "sources", check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"LICENSE", "setup.py"} <= names
    zoo = (ROOT / "src" / "latentlab" / "zoo" / "models").rglob("*.*")
    assert {str(path.relative_to(ROOT)) for path in chain((ROOT / "conf").rglob("*.yaml"), zoo)} <= names


def version():
    return re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
