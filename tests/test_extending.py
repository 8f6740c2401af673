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


def run(copy, *commands):
    """Run scripts of the copy, one after the other, in one process."""
    process = subprocess.run(
        [sys.executable, "-c", SEVERAL, *commands],
        cwd=copy,
        env=environment(copy) | {"PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


SEVERAL = """
import runpy, sys
from hydra.core.global_hydra import GlobalHydra
for command in sys.argv[1:]:
    sys.argv = command.split()
    runpy.run_path(sys.argv[0], run_name="__main__")
    GlobalHydra.instance().clear()
"""


def test_a_recipe_touches_few_files():
    assert SECTIONS.keys() == LIMITS.keys()
    for title, text in SECTIONS.items():
        assert len(BLOCK.findall(text)) <= LIMITS[title]


def test_the_commands_of_the_recipes_compose(extended):
    run(extended, *(f"{command} --cfg job" for command in COMMAND.findall(PAGE)))


def test_the_new_classes_train_and_evaluate(extended):
    commands = []
    for name, options in RUNS.items():
        commands += [
            f"train.py {options} logger=none trainer.max_epochs=1 +trainer.limit_train_batches=2 hydra.run.dir={name}",
            f"evaluate.py ckpt_path={name}/checkpoints/best.ckpt figures.draw=false",
        ]
    run(extended, *commands)
    for name in RUNS:
        assert (extended / name / "evaluation.json").exists()
