"""The callback draws figures in time and leaves training alone."""

import random

import numpy as np
import pytest
import torch
from commands import QUICK, call, refusal
from hydra.utils import instantiate
from matplotlib.figure import Figure
from matplotlib.image import imread
from parts import CONF, composed
from runs import train
from toy import ToyData, ToyModule, trainer_in

from latentlab.callbacks import Figures
from latentlab.errors import UserError
from latentlab.figures import (
    Table,
    TabledFigure,
    classes,
    denoising,
    latents,
    layer_kl,
    manifold,
    samples,
)
from latentlab.run.legacy import today
from latentlab.run.trust import Trusted


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def disturbing(model, data):
    """A figure that draws random numbers outside torch and turns dropout on."""
    random.random()
    np.random.rand()
    model.train()
    return Figure()


def fit(folder, *callbacks, epochs=1, **options):
    torch.manual_seed(0)
    module = ToyModule()
    trainer = trainer_in(folder, callbacks, epochs=epochs, **options)
    trainer.fit(module, ToyData())
    return module, trainer


def drawn(folder):
    return {path.stem for path in (folder / "figures").glob("*.png")}


def test_figures_are_drawn_every_n_epochs_and_at_the_end(tmp_path):
    figures = Figures(2, at_end=["manifold"], samples=samples, manifold=manifold, latents=None)
    fit(tmp_path / "short", figures)
    assert drawn(tmp_path / "short") == set()
    module, trainer = fit(tmp_path, figures, epochs=2)
    assert drawn(tmp_path) == {"samples"}
    trainer.test(module, ToyData(), verbose=False)
    assert drawn(tmp_path) == {"samples", "manifold"}
    assert min(imread(tmp_path / "figures" / "manifold.png").shape[:2]) > 500


def test_figures_at_the_end_only(tmp_path):
    module, trainer = fit(tmp_path, Figures(None, samples=samples))
    assert drawn(tmp_path) == set()
    trainer.test(module, ToyData(), verbose=False)
    assert drawn(tmp_path) == {"samples"}


def test_a_figure_that_the_model_does_not_have_is_left_out(tmp_path):
    fit(tmp_path, Figures(1, nothing=lambda model, data: None))
    assert drawn(tmp_path) == set()


def test_drawing_changes_no_number_of_the_training(tmp_path):
    plain, _ = fit(tmp_path)
    before = states()
    with_figures, _ = fit(tmp_path, Figures(1, latents=latents, samples=samples, disturbing=disturbing))
    assert states() == before
    for a, b in zip(plain.parameters(), with_figures.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_error_in_drawing_is_raised(tmp_path):
    def fails(model, data):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, Figures(1, fails=fails))


def test_tables_are_logged_at_the_end(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr("latentlab.callbacks.figures.log_table", lambda loggers, *row: logged.append(row))
    table = Table(["a"], [[1]])
    module, trainer = fit(tmp_path, Figures(1, x=lambda model, data: TabledFigure({"numbers": table})))
    assert logged == []
    trainer.test(module, ToyData(), verbose=False)
    assert logged == [("tables/numbers", ["a"], [[1]], 4)]


def test_captions_name_epoch_and_score(tmp_path, monkeypatch):
    captions = []
    monkeypatch.setattr("latentlab.figures.drawing.save", lambda *given: captions.append(given[2]))
    module, trainer = fit(tmp_path, Figures(1, samples=samples))
    trainer.test(module, ToyData(), verbose=False)
    assert captions[0].startswith("epoch 1, val elbo -") and captions[1].startswith("test elbo -")


def test_figures_that_the_model_cannot_have_are_refused(tmp_path):
    for draw, option in [(classes, "conditional_vae"), (layer_kl, "ladder_vae"), (denoising, "vdm")]:
        with pytest.raises(UserError, match=rf"figures\.x needs .*{option}.*~figures\.x"):
            fit(tmp_path, Figures(1, x=draw))
    with pytest.raises(UserError, match=r"figures\.x=3: a figure is a function"):
        Figures(1, x=3)


def test_figures_are_configured_by_one_group():
    config = composed("figures.every_n_epochs=5", "~figures.manifold", "figures.samples.rows=3")
    built = instantiate(config.callbacks.figures)
    assert built.every_n_epochs == 5
    assert list(built.figures) == ["latents", "samples", "sample_means", "reconstructions", "usage"]
    assert built.figures["samples"].keywords == {"rows": 3}
    assert "figures" not in composed("callbacks=none").callbacks


@pytest.mark.parametrize("option", ["vae", "diffusion", "latent_diffusion", "hierarchy", "conditional"])
@pytest.mark.parametrize("without", ["~figures.samples", "figures.samples=null"])
def test_samples_can_be_left_out(option, without):
    built = instantiate(composed(f"figures={option}", without).callbacks.figures)
    assert "samples" not in built.figures and "sample_means" in built.figures


def test_unknown_figures_at_the_end_are_refused():
    with pytest.raises(UserError, match=r"figures\.at_end names sample,.*did you mean samples\?"):
        Figures(at_end=["sample"], samples=samples)
    for without in ("~figures.sampling_steps", "figures.sampling_steps=null"):
        at_end = instantiate(composed("figures=diffusion", without).callbacks.figures).at_end
        assert "sampling_steps" in at_end


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("figures") / "run", "model.latent_dim=3")


def test_more_figures_are_drawn_by_name(run):
    words = [f"run={run}", "nll.samples=0", "mutual_information.examples=0", "figures.draw=false"]
    done = call("evaluate.py", *words, "figures.more=[neighbours,traversals]")
    assert done.status == 0, done.err
    assert drawn(run) == {"neighbours", "traversals"}
    said = refusal(call("evaluate.py", *words, "figures.more=manifold"))
    assert "two latents, and this model has 3" in said


@pytest.mark.parametrize(
    ("name", "said"), [("traversal", "did you mean traversals"), ("manifold", "this model has 32")]
)
def test_figures_that_cannot_be_drawn_are_refused_before_training(tmp_path, name, said):
    words = [word for word in QUICK if word != "callbacks=none"]
    done = call("train.py", *words, f"figures.more=[{name}]", f"hydra.run.dir={tmp_path}/run")
    assert said in refusal(done)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_figure_that_is_not_partial_is_refused():
    with pytest.raises(UserError, match=r"figures\.samples: .* model and data.*_partial_: true"):
        composed("figures.samples._partial_=false")


def test_callbacks_of_an_older_version_become_one():
    old = {
        "latents": {"_target_": "latentlab.callbacks.Latents", "every_n_epochs": 10, "max_points": 20},
        "samples": {"_target_": "latentlab.callbacks.Samples", "every_n_epochs": 5},
        "manifold": None,
        "timing": {"_target_": "latentlab.callbacks.Timing"},
    }
    callbacks = today({"callbacks": old})["callbacks"]
    Trusted.of([CONF]).check(callbacks, "callbacks")
    assert list(callbacks) == ["timing", "figures"]
    figures = instantiate(callbacks["figures"])
    assert figures.every_n_epochs == 5 and list(figures.figures) == ["latents", "samples", "sample_means"]
    assert figures.figures["latents"].func is latents and figures.figures["latents"].keywords == {
        "max_points": 20
    }


def test_an_older_run_without_a_diffusion_leaves_out_its_figures():
    callbacks = {
        "samples": {"_target_": "latentlab.callbacks.Samples"},
        "denoising": {"_target_": "latentlab.callbacks.DenoisingChain"},
    }
    for model, names in {"vae.VAE": set(), "vdm.VDM": {"denoising"}}.items():
        old = {"model": {"_target_": f"latentlab.models.{model}"}, "callbacks": callbacks}
        figures = instantiate(today(old)["callbacks"]["figures"]).figures
        assert set(figures) == {"samples", "sample_means"} | names
