"""The old names of keys on the command line, and quoting."""

import pytest
from commands import QUICK, call

from latentlab.cli.overrides import rename_old_keys, todays_name

RENAMED = {
    "schedule=cosine": "noise_schedule=cosine",
    "schedule=cosine,learned": "noise_schedule=cosine,learned",
    "+schedule.gamma_max=3": "+noise_schedule.gamma_max=3",
    "steps.scale=0.1": "step_size.scale=0.1",
    "model.steps.scale=0.1": "model.step_size.scale=0.1",
    "callbacks.latents.every_n_epochs=5": "figures.every_n_epochs=5",
    "callbacks.latents.max_points=5,6": "figures.latents.max_points=5,6",
    "~callbacks.manifold": "~figures.manifold",
    "callbacks.layers.max_points=5": "figures.latents_layers.max_points=5",
    "chain.inference.steps.network.hidden=[4]": "model.up.network.hidden=[4]",
    "chain.transitions.denoiser.width=4": "denoiser.width=4",
    "chain.transitions.network.hidden=[4]": "model.down.network.hidden=[4]",
    "logger=csv": "logger=none",
    "logger=wandb,csv": "logger=wandb,none",
    "module=hierarchical,vae": "module=gradient",
    "callbacks=hierarchy": "figures=hierarchy",
}
SAME = (
    *(
        "-m",
        "--multirun",
        "--config-dir=schedule",
        "scheduler=cosine",
        "model.steps=1000",
        "steps",
        "schedule",
    ),
    *("encoder.hidden=[16,16]", "callbacks.best.monitor=x", "logger.notes='logger=csv, steps=3'", "seed=1,1"),
)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_replaced(old, new):
    assert todays_name(old) == new
    assert todays_name(new) == new


@pytest.mark.parametrize("word", SAME)
def test_other_words_stay(word):
    assert todays_name(word) == word


def test_each_old_name_is_reported_once_with_todays_name(capsys):
    old = ["-m", "callbacks.latents.every_n_epochs=5", "callbacks.samples.every_n_epochs=5", "seed=1,2"]
    assert rename_old_keys(old, "train") == ["-m", "figures.every_n_epochs=5", "seed=1,2"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("figures.every_n_epochs=5" in line for line in said)
    assert rename_old_keys(["~callbacks.samples"], "train") == ["~figures.samples", "~figures.sample_means"]
    assert rename_old_keys(["figures=false"], "evaluate") == ["figures.draw=false"]


def test_an_old_name_trains(tmp_path):
    done = call("train.py", *QUICK, "logger=csv", f"hydra.run.dir={tmp_path}/run")
    assert done.status == 0 and done.err.startswith("logger=csv: now called logger=none")
    assert (tmp_path / "run" / "summary.json").exists()
