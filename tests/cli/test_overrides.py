"""The old names of keys on the command line, quoting, and the modes of Hydra."""

import parts
import pytest
from commands import QUICK, call, refusal
from hydra._internal.config_loader_impl import ConfigLoaderImpl

import latentlab
from latentlab.cli.overrides import rename_old_keys, todays_name

RENAMED = {
    "schedule=cosine": "noise_schedule=cosine",
    "schedule=cosine,learned": "noise_schedule=cosine,learned",
    "+schedule.gamma_max=3": "+noise_schedule.gamma_max=3",
    "steps.scale=0.1": "step_size.scale=0.1",
    "model.steps.scale=0.1": "model.step_size.scale=0.1",
    "callbacks.latents.every_n_epochs=5": "figures.every_n_epochs=5",
    "callbacks.figures.every_n_epochs=5": "figures.every_n_epochs=5",
    "callbacks.sampling_steps.every_n_epochs=10": "figures.every_n_epochs=10",
    "callbacks.sampling_steps.rows=2": "figures.sampling_steps.rows=2",
    "steps.beta1=0.8": "step_size.betas.0=0.8",
    "steps.beta2=0.99,0.9": "step_size.betas.1=0.99,0.9",
    "model.steps.beta1=0.8": "step_size.betas.0=0.8",
    "least_noise.threshold=-5": "noise_schedule.gamma_min=-5",
    "model.inference.steps.network.hidden=[4]": "model.up.network.hidden=[4]",
    "model.transitions.network.hidden=[4]": "model.down.network.hidden=[4]",
    "callbacks.latents.max_points=5,6": "figures.latents.max_points=5,6",
    "~callbacks.manifold": "~figures.manifold",
    "callbacks.layers.max_points=5": "figures.latents_layers.max_points=5",
    "chain.inference.steps.network.hidden=[4]": "model.up.network.hidden=[4]",
    "chain.transitions.denoiser.width=4": "denoiser.width=4",
    "chain.transitions.network.hidden=[4]": "model.down.network.hidden=[4]",
    "logger.project=a,b": "logger.wandb.project=a,b",
    "+logger.tags=[a]": "+logger.wandb.tags=[a]",
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
    *("encoder.hidden=[16,16]", "callbacks.best.monitor=x", "logger.wandb.notes='steps.scale=3'", "seed=1,1"),
)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_replaced(old, new):
    assert todays_name(old) == new
    assert todays_name(new) == new


@pytest.mark.parametrize("word", ["data.options.split=letters", "data.options={split:letters}"])
def test_the_options_of_a_data_set_need_no_plus(word):
    found = latentlab.compose(["data=binarised_mnist", "data.dataset=EMNIST", word])
    assert found.data.options == {"split": "letters"}


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
    assert rename_old_keys(["debug=default"], "evaluate") == ["debug=traceback"]


def test_the_old_betas_of_adam_are_entries_of_todays_list():
    old = ["model=bbvi_normal_gamma", "steps=adam", "steps.beta1=0.8", "model.steps.beta2=0.99"]
    config = parts.composed(*rename_old_keys(old, "train"))
    assert list(config.model.step_size.betas) == [0.8, 0.99]
    one = parts.composed(*rename_old_keys(old[:3], "train"))
    assert list(one.model.step_size.betas) == [0.8, 0.999]


def test_a_latent_size_without_an_effect_is_left_out(capsys):
    words = ["model=markovian_hvae", "chain=noised_data", "model.latent_dim=8"]
    assert rename_old_keys(words, "train") == words[:2]
    assert capsys.readouterr().err.startswith("model.latent_dim=8: left out")
    assert rename_old_keys(words[::2], "train") == words[::2]


def test_a_sweep_over_options_of_two_groups_names_both():
    line = refusal(call("train.py", "-m", "callbacks=default,hierarchy"))
    assert "callbacks=default and figures=hierarchy" in line


def test_an_old_name_trains(tmp_path):
    done = call("train.py", *QUICK, "module=vae", f"hydra.run.dir={tmp_path}/run")
    assert done.status == 0 and done.err.startswith("module=vae: now called module=gradient")
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(("word", "number"), [("optimizer.lr=abc", 1), ("optimizer.lrr=1", 3)])
def test_the_config_of_a_single_run_is_composed_once(tmp_path, monkeypatch, word, number):
    """And again if that fails. A suggestion takes one more."""
    compositions, compose = [], ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(
        ConfigLoaderImpl, "load_configuration", lambda *a, **k: compositions.append(1) or compose(*a, **k)
    )
    refusal(call("train.py", *QUICK, word, f"hydra.run.dir={tmp_path}/run"))
    assert len(compositions) == number


def test_the_file_of_an_experiment_chooses_a_multirun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment").mkdir()
    sweep = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,1\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(sweep)
    line = refusal(call("train.py", f"--config-dir={tmp_path}", "experiment=mine", *QUICK))
    assert "seed-1" in line and "two jobs" in line


def test_a_word_chooses_a_multirun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "two jobs" in refusal(call("train.py", *QUICK, "hydra.mode=MULTIRUN", "seed=1,1"))
