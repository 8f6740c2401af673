"""Libraries that a run does not use are not imported, and work as usual once they are."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from commands import ROOT, environment

from latentlab import late
from latentlab.processes.threads import SPINS

UNUSED = [
    "matplotlib",
    "optuna",
    "scipy",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torchmetrics",
    "torchvision",
    "wandb",
]
WORDS = (
    *("data=binarised_digits", "logger=none", "figures=none"),
    *("encoder.hidden=[16]", "trainer.max_steps=1"),
)
SCRIPT = """
import json, os, sys
from latentlab.cli.train import main

main()
unused = [name for name in {unused} if name in sys.modules]

import torch, torchmetrics, torchmetrics.classification
from pytorch_lightning.trainer.connectors.logger_connector.result import Metric
from pytorch_lightning.utilities.compile import OptimizedModule

submodules = torchmetrics.metric, torchmetrics.collections, torchmetrics.utilities.plot, torchmetrics.utilities.imports
accuracy = torchmetrics.Accuracy(task="binary")
network = torch.nn.Linear(2, 1)
compiled = torch.compile(network, backend="eager")
optimiser = torch.optim.Adam(network.parameters(), lr=0.5)
before = network.weight.clone()
for step in range(2):
    optimiser.zero_grad()
    compiled(torch.ones(1, 2)).sum().backward()
    optimiser.step()
optimiser.load_state_dict(optimiser.state_dict())
print(json.dumps({{
    "unused": unused,
    "spins": os.environ["GOMP_SPINCOUNT"],
    "metric": isinstance(accuracy, Metric) and Metric is torchmetrics.Metric,
    "compiled": isinstance(compiled, OptimizedModule) and not isinstance(network, OptimizedModule),
    "change": (network.weight - before).flatten().tolist(),
    "steps": int(optimiser.state[network.weight]["step"]),
}}))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answers of a process that trains for a step, and imports the libraries then."""
    home = tmp_path_factory.mktemp("late")
    words = (*WORDS, f"hydra.run.dir={home}/run")
    code = f"import sys; sys.argv = {[str(ROOT / 'train.py'), *words]}\n{SCRIPT.format(unused=UNUSED)}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_a_run_imports_no_library_that_it_does_not_use(answers: dict[str, Any]) -> None:
    assert answers["unused"] == [] and answers["spins"] == SPINS["GOMP_SPINCOUNT"]


def test_the_libraries_work_as_usual_once_they_are_imported(answers: dict[str, Any]) -> None:
    assert answers["metric"] and answers["compiled"]
    # Adam's first steps have the length of the learning rate.
    assert answers["change"] == pytest.approx([-1.0, -1.0], abs=1e-5) and answers["steps"] == 2


@contextmanager
def stand_in(module: ModuleType) -> Iterator[None]:
    sys.modules["toy_unused"] = late.StandIn("toy_unused")
    try:
        yield
    finally:
        sys.modules.pop("toy_unused", None)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Return a function that imports a package with the given code, which imports a module that it does not use."""

    def load(code: str) -> Any:
        (tmp_path / "toy_package.py").write_text(code)
        return __import__("toy_package")

    (tmp_path / "toy_unused").mkdir()
    (tmp_path / "toy_unused" / "__init__.py").write_text("def double(x): return 2 * x\nclass Kind: pass\n")
    (tmp_path / "toy_unused" / "part.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(late.CONTEXTS, "toy_package", stand_in)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield load
    for name in ("toy_package", "toy_unused", "toy_unused.part"):
        sys.modules.pop(name, None)


def test_a_stand_in_imports_its_module_when_it_is_called(toy):
    module = toy("from toy_unused import Kind, double")
    assert "toy_unused" not in sys.modules and not isinstance(1, module.Kind)
    assert module.double(4) == 8
    assert isinstance(sys.modules["toy_unused"].Kind(), module.Kind) and not isinstance(1, module.Kind)


def test_a_stand_in_that_is_called_during_the_import_gives_way_to_its_module(toy):
    assert toy("from toy_unused import double\nvalue = double(2)").value == 4


def test_a_package_that_needs_more_than_the_stand_ins_is_imported_as_usual(toy):
    assert toy("from toy_unused.part import answer").answer == 42
