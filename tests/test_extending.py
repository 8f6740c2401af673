"""The recipes of docs/extending.md, carried out in a copy of the project."""

import re
import shutil
import subprocess
import sys

import pytest
from commands import ROOT, environment

PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
BLOCK = re.compile(r"\*\*`(\S+)`\*\*[^\n]*\n\n```\w+\n(.*?)```", re.S)
COMMAND = re.compile(r"^python (train\.py.*)$", re.M)
LIMITS = {"A likelihood": 2, "An objective": 2, "A data set": 2, "A model family": 5}
# The first three recipes in one run, and the fourth.
RUNS = {
    "parts": "data=bars protocol=continuous likelihood=laplace objective=renyi objective.alpha=0.2",
    "family": "model=bernoulli_mixture data=binarised_digits",
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with all recipes written into it."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("conf", "src"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for script in ("train.py", "evaluate.py"):
        shutil.copy(ROOT / script, copy)
    for text in SECTIONS.values():
        for name, block in BLOCK.findall(text):
            path = copy / name
            before = f"{path.read_text()}\n\n" if path.exists() else ""
            path.write_text(before + block)
    return copy


def run(copy, *words):
    process = subprocess.run(
        [sys.executable, *words],
        cwd=copy,
        env=environment(copy) | {"PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


def test_a_recipe_touches_few_files():
    assert {
        title: len(BLOCK.findall(text)) <= LIMITS[title] for title, text in SECTIONS.items()
    } == dict.fromkeys(LIMITS, True)


@pytest.mark.parametrize("title", LIMITS)
def test_the_command_of_a_recipe_composes(title, extended):
    [command] = COMMAND.findall(SECTIONS[title])
    run(extended, *command.split(), "--cfg", "job")


@pytest.mark.parametrize("name", RUNS)
def test_the_new_classes_train_and_evaluate(name, extended):
    run(
        extended,
        "train.py",
        *RUNS[name].split(),
        "logger=none",
        "trainer.max_epochs=1",
        f"hydra.run.dir={name}",
    )
    run(extended, "evaluate.py", f"ckpt_path={name}/checkpoints/best.ckpt")
    assert (extended / name / "evaluation.json").exists()
