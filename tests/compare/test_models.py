"""Sheets of the models of several runs."""

from pathlib import Path
from shutil import copytree

import pytest
import torch
from omegaconf import OmegaConf
from runs import train

from latentlab.compare.__main__ import main
from latentlab.compare.models import decoders, image_sheet, latents, read_model, samples
from latentlab.compare.runs import collect
from latentlab.errors import UserError
from latentlab.figures.drawing import save

SMALL = ("decoder.hidden=[16]", "model.latent_dim=2", "data.val_size=0")
KINDS = {
    "a": ["seed=1"],
    "b": ["seed=2"],
    "c": ["model=autoencoder"],
    "d": ["prior=mog", "model.latent_dim=3"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for name, words in KINDS.items():
        train(place / name, *SMALL, *words)
    return place


def read(*folders):
    return collect(folders, read_model)[0]


def shown(axes):
    return torch.as_tensor(axes.images[0].get_array().data)


def test_seeds_are_one_panel_with_their_mean(folder):
    sheet = latents(read(folder))
    titles = [axes.get_title() for axes in sheet.axes]
    assert len(titles) == 3
    assert "test/elbo" in titles[0] and "± " in titles[0] and "(2 seeds)" in titles[0]
    assert "test/reconstruction" in titles[1] and "seeds" not in titles[1]
    assert len(sheet.axes[2].collections) > len(sheet.axes[1].collections)  # contours, components


def test_samples_are_those_of_the_first_seed(folder, capsys):
    sheet = samples(read(folder), rows=2)
    assert len(sheet.axes) == 2
    assert "left out" in capsys.readouterr().err  # the autoencoder
    alone = samples(read(folder / "a"), rows=2)
    assert torch.equal(shown(sheet.axes[0]), shown(alone.axes[0]))
    means = samples(read(folder / "a"), rows=2, mean=True)
    assert not torch.equal(shown(means.axes[0]), shown(alone.axes[0]))


def test_decoders_get_the_same_latents(folder, capsys):
    sheet = decoders(read(folder), rows=2)
    assert len(sheet.axes) == 2  # the autoencoder has a decoder
    assert "it has 3 latents, and the first run 2" in capsys.readouterr().err
    again = decoders(read(folder / "a", folder / "a"), rows=2)
    assert torch.equal(shown(again.axes[0]), shown(sheet.axes[0]))


def test_a_command_draws_models(folder, tmp_path, capsys):
    main([str(folder / "a"), "figure=latents", f"out={tmp_path}/sheet.png"])
    assert capsys.readouterr().out == f"{tmp_path}/sheet.png\n"


def test_a_run_that_is_not_trusted_is_left_out(folder, tmp_path, capsys):
    hostile = copytree(folder / "b", tmp_path / "hostile")
    config = OmegaConf.load(hostile / "config.yaml")
    config.module.model._target_ = "os.system"
    OmegaConf.save(config, hostile / "config.yaml")
    main([str(folder / "a"), str(hostile), "figure=samples", "rows=1", f"out={tmp_path}/sheet.png"])
    assert "hostile: module.model._target_=os.system" in capsys.readouterr().err
    with pytest.raises(UserError, match="no run can be compared"):
        main([str(hostile), "figure=samples", f"out={tmp_path}/other.png"])
    assert not Path(tmp_path / "other.png").exists()


def test_the_first_seed_that_can_be_drawn_is_drawn(folder, capsys):
    (experiment,) = read(folder / "a", folder / "b")
    experiment.runs[0].values.saved.state["state_dict"].clear()
    sheet = samples([experiment], rows=1)
    assert len(sheet.axes) == 1 and f"{folder}/a" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [1, 4])
def test_long_labels_fit_above_their_panels(rows, tmp_path):
    label = "standard_normal, analytic_elbo, latent_dim=32, samples=1, lr=0.001\ntest/elbo -309.68"
    drawn = image_sheet([(label, torch.zeros(rows**2, 1, 28, 28))] * 2, rows, "samples", "")
    save(drawn, tmp_path / "sheet.png")  # it lays the figure out
    drawn.canvas.draw()
    first, second = (axes.title.get_window_extent() for axes in drawn.axes)
    assert first.x0 > 0 and first.x1 < second.x0 and second.x1 < drawn.bbox.x1
