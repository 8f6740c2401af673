"""Runs that an older version wrote still evaluate and resume, with the same numbers.

`tests/fixtures/NAME` holds such a run of two epochs, its arguments, and the numbers that the same version found when it
evaluated the run with `nll.samples=20` and when it resumed it for a third epoch. The NLL is that of today's seeds.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import ROOT, call

from latentlab.run import legacy
from latentlab.run.trust import Trusted

FIXTURES = ROOT / "tests" / "fixtures"
# The numbers were equal to the last digit on the machine that made them. Other processors round differently.
ROUNDING = 1e-4


@pytest.fixture(params=[path.name for path in sorted(FIXTURES.iterdir())])
def old(request, tmp_path):
    """The fixture, and a copy of its run."""
    shutil.copytree(FIXTURES / request.param / "run", tmp_path / "run")
    return FIXTURES / request.param, tmp_path / "run"


def same_numbers(found: Path, expected: Path) -> None:
    known = {k: v for k, v in json.loads(expected.read_text()).items() if not k.startswith("time/")}
    values = json.loads(found.read_text())
    assert set(known) <= set(values)
    for name, value in known.items():
        expected_value = pytest.approx(value, rel=ROUNDING) if isinstance(value, float) else value
        assert values[name] == expected_value, name


def test_an_old_run_evaluates(old):
    fixture, run = old
    drawn = f"figures.draw={fixture.name == 'vae'}"
    done = call("evaluate.py", f"ckpt_path={run}/checkpoints/best.ckpt", "nll.samples=20", drawn)
    assert (done.status, done.err) == (0, "")
    same_numbers(run / "evaluation.json", fixture / "evaluated.json")
    assert (run / "figures" / "samples.png").exists() == (fixture.name == "vae")


def test_an_old_run_resumes_with_its_old_command(old):
    fixture, run = old
    words = (fixture / "arguments.txt").read_text().split()
    resumed = (f"ckpt_path={run}/checkpoints/last.ckpt", f"hydra.run.dir={run}", "trainer.max_epochs=3")
    done = call("train.py", *words, *resumed, "callbacks=none")
    assert done.status == 0, done.err
    assert all("now called" in line for line in done.err.splitlines()), done.err
    same_numbers(run / "summary.json", fixture / "resumed.json")


def test_the_logger_of_an_old_run_gets_its_name():
    old = {"_target_": "latentlab.tracking.wandb.wandb_logger", "project": "p"}
    assert legacy.today({"logger": old})["logger"] == {"wandb": old}
    assert legacy.today({"logger": {"_target_": None}})["logger"] == {}


def test_todays_names_are_left_alone():
    config = {"module": {"_target_": "latentlab.lit.Anything", "model": {"_target_": "latentlab.models.X"}}}
    config |= {
        "data": {},
        "callbacks": {"best": None},
        "logger": {"wandb": {"_target_": "x"}},
        "names": {"model": "vae"},
        "seed": 0,
    }
    once = legacy.today(config)
    assert legacy.today(once) == once
    weights = {"model.encoder.0.weight": torch.zeros(1)}
    assert legacy.todays_weights(weights, once) == weights


@pytest.mark.parametrize("name", sorted(set(legacy.TARGETS.values())))
def test_a_class_that_moved_is_found(name):
    assert Trusted.of([ROOT / "conf"]).find(name, "module").__name__ == name.rpartition(".")[2]


SHARED = {"_target_": "latentlab.models.chain.SharedConditionals"}
CHAIN = {"levels": 3, "up": SHARED, "down": SHARED}


@pytest.mark.parametrize(
    ("old", "model", "todays"),
    [
        ("inference.posterior", CHAIN, ["up.0"]),
        ("inference.steps.conditionals.1", {"latent_dims": [3, 2, 2]}, ["up.2"]),
        ("inference.steps.conditionals.0", CHAIN, ["up.1.conditional", "up.2.conditional"]),
        ("transitions.conditionals.0", CHAIN, ["down.0.conditional", "down.1.conditional"]),
        ("inference.chain.schedule", CHAIN, ["up.1.noise_schedule", "up.2.noise_schedule"]),
        ("inference.chain.schedule", {"levels": 3}, ["noise_schedule"]),
        ("transitions.diffusion.denoiser", {"levels": 3}, ["diffusion.denoiser"]),
        ("transitions.diffusion.schedule", {"levels": 3}, ["diffusion.noise_schedule"]),
        ("diffusion.schedule", {}, ["diffusion.noise_schedule"]),
    ],
)
def test_weights_have_todays_names(old, model, todays):
    found = legacy.todays_weights({f"model.{old}.weight": torch.zeros(1)}, {"model": model})
    assert list(found) == [f"model.{name}.weight" for name in todays]
